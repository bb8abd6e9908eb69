"""What `eyas evaluate MODEL` measured, on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from eyas.report.words import count, p_value, percent, points


def evaluation_table(facts: Sequence[Mapping[str, Any]]) -> Table:
    """Accuracy by model, mode and level (where there are several) with interval, n, lengths and truncation.

    `facts` are contents of `evaluation.json`: the model's and, where there is one, the baseline's.
    """
    first = facts[0]
    left_out = f"; {first['unanswered']} that cannot be graded left out" if first["unanswered"] else ""
    table = Table(
        box=box.SIMPLE_HEAD,
        title=escape(str(first["data"])),
        title_justify="left",
        caption=f"95 % intervals (Wilson){left_out}",
        caption_justify="left",
    )
    for name in ("model", "mode", "level"):
        table.add_column(name)
    for name in ("accuracy, %", "95 % interval", "n", "mean tokens", "truncated, %"):
        table.add_column(name, justify="right")
    for item in facts:
        for mode, found in item["accuracy"].items():
            table.add_row(escape(item["model"]), mode, "all", *_cells(found), style="bold")
            for k, part in item["pass_at_k"][mode].items():
                table.add_row("", f"pass@{k}", "all", *_cells(part))
            levels = item["by_level"].get(mode, {})
            for level, part in levels.items() if len(levels) > 1 else ():
                table.add_row("", "", escape(level), *_cells(part))
    return table


def difference_lines(differences: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A line per mode of `comparison-….json`: paired bootstrap interval and exact McNemar test."""
    return [
        f"model − baseline, {mode}: {points(found['difference'])} points ({points(found['low'])} to "
        f"{points(found['high'])}), {count(found['n'])} pairs, McNemar p {p_value(found['p_value'])}"
        for mode, found in differences.items()
    ]


def suite_table(outcomes: Sequence[Any], *, title: str, chat: bool, mode: str) -> Table:
    """A row per benchmark: what was measured, or why it was not."""
    how = f"chat template, {mode} mode" if chat else "no chat template"
    table = Table(
        box=box.SIMPLE_HEAD,
        title=escape(title),
        title_justify="left",
        caption=f"lm-evaluation-harness, {how}; 95 % intervals (Wilson)",
        caption_justify="left",
    )
    table.add_column("benchmark")
    for name in ("result, %", "95 % interval", "n", "shots"):
        table.add_column(name, justify="right")
    table.add_column("task and metric, or why not", overflow="fold")
    for item in outcomes:
        if item.status == "measured":
            interval = "–" if item.low is None else f"{percent(item.low)}–{percent(item.high)}"
            what = f"{item.task} v{item.version} {item.metric}"
            table.add_row(item.name, percent(item.value), interval, count(item.n), str(item.shots), escape(what))
        else:
            reason = f"{item.status}: {item.reason}"
            table.add_row(item.name, "–", "", "", "", escape(reason), style="dim")
    return table


def _cells(found: Mapping[str, float]) -> list[str]:
    interval = f"{percent(found['low'])}–{percent(found['high'])}"
    tokens = f"{found['mean_tokens']:.1f}" if "mean_tokens" in found else ""
    truncated = percent(found["truncated"]) if "truncated" in found else ""
    return [percent(found["value"]), interval, count(found["n"]), tokens, truncated]
