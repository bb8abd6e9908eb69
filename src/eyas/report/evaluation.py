"""What `eyas evaluate MODEL` measured, on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from eyas.report.words import count, p_value, percent, points


def evaluation_table(facts: Mapping[str, Any]) -> Table:
    """One model's accuracy by mode, level and source (where there are several), with interval, n, length, truncation.

    `facts` are the content of `evaluation.json`. It fits into 80 columns.
    """
    table = Table(
        box=box.SIMPLE_HEAD,
        title=escape(f"{facts['model']} on {facts['data']}"),
        title_justify="left",
        caption=". ".join(_notes(facts)) + ".",
        caption_justify="left",
        pad_edge=False,
    )
    table.add_column("mode")
    table.add_column("of", overflow="fold")
    for name in ("accuracy, %", "95 % interval", "n", "tokens", "cut, %"):
        table.add_column(name, justify="right", no_wrap=True)
    for mode, found in facts["accuracy"].items():
        table.add_row(mode, "all", *_cells(found), style="bold")
        for k, part in facts["pass_at_k"][mode].items():
            if k != "1":  # the accuracy itself
                table.add_row("", f"pass@{k}", *_cells(part))
        for by in ("by_level", "by_source"):
            parts = facts[by].get(mode, {})
            for name, part in parts.items() if len(parts) > 1 else ():
                table.add_row("", escape(name), *_cells(part))
        table.add_section()
    return table


def _notes(facts: Mapping[str, Any]) -> list[str]:
    notes = ["95 % intervals (Wilson); tokens: mean length of an answer; cut: at the length limit, counted as wrong"]
    for key, what in (
        ("unanswered", "that cannot be graded left out"),
        ("repeated", "that repeat an earlier problem left out"),
        ("too_long", "whose prompt does not fit into the model's context counted as wrong"),
    ):
        if facts[key]:
            notes.append(f"{count(facts[key])} {what}")
    return notes


def difference_lines(differences: Mapping[str, Mapping[str, float]], *, samples: int) -> list[str]:
    """A line per mode of `comparison-….json`: paired interval and exact test, of several samples the sign test of their
    shares."""
    test = "McNemar p" if samples == 1 else "sign test p"
    return [
        f"model − baseline, {mode}: {points(found['difference'])} points ({points(found['low'])} to "
        f"{points(found['high'])}), {count(found['n'])} pairs, {test} {p_value(found['p_value'])}"
        for mode, found in differences.items()
    ]


def suite_table(outcomes: Sequence[Any], *, title: str, chat: bool, mode: str) -> Table:
    """A row per benchmark: what was measured, or what it needs; it fits into 80 columns."""
    how = f"chat template, {mode} mode" if chat else "no chat template"
    table = Table(
        box=box.SIMPLE_HEAD,
        title=escape(title),
        title_justify="left",
        caption=f"lm-evaluation-harness, {how}; 95 % intervals (Wilson)",
        caption_justify="left",
        pad_edge=False,
    )
    table.add_column("benchmark")
    for name in ("result, %", "95 % interval", "n", "shots"):
        table.add_column(name, justify="right", no_wrap=True)
    for item in outcomes:
        if item.status == "measured":
            interval = "–" if item.low is None else f"{percent(item.low)}–{percent(item.high)}"
            table.add_row(item.name, percent(item.value), interval, count(item.n), str(item.shots))
        else:
            table.add_row(item.name, "–", item.status, "", "", style="dim")
    return table


def suite_notes(outcomes: Sequence[Any]) -> list[str]:
    """A line per benchmark: the task and metric that its number is, or why there is none."""
    return [
        f"{item.name}: {item.task} v{item.version}, {item.metric}"
        if item.status == "measured"
        else f"{item.name}: {item.status}: {item.reason}"
        for item in outcomes
    ]


def _cells(found: Mapping[str, float]) -> list[str]:
    interval = f"{percent(found['low'])}–{percent(found['high'])}"
    tokens = f"{found['mean_tokens']:.1f}" if "mean_tokens" in found else ""
    truncated = percent(found["truncated"]) if "truncated" in found else ""
    return [percent(found["value"]), interval, count(found["n"]), tokens, truncated]
