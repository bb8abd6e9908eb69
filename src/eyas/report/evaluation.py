"""What `eyas evaluate MODEL` measured as a terminal table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from eyas.report.words import count, p_value, percent, points


def evaluation_table(facts: Sequence[Mapping[str, Any]], differences: Mapping[str, Mapping[str, float]]) -> Table:
    """Accuracy by model, mode and level with interval, n, lengths and truncation; the paired differences below.

    `facts` are contents of `evaluation.json`, the model's and, where there is one, the baseline's; `differences` the
    modes of `comparison-….json`.
    """
    first = facts[0]
    left_out = f"; {first['unanswered']} without an answer left out" if first["unanswered"] else ""
    table = Table(
        box=box.SIMPLE_HEAD,
        title=escape(str(first["data"])),
        title_justify="left",
        caption=f"95 % intervals (Wilson; difference: paired bootstrap, exact McNemar){left_out}",
        caption_justify="left",
    )
    for name in ("model", "mode", "level"):
        table.add_column(name)
    for name in ("accuracy, %", "95 % interval", "n", "mean tokens", "truncated, %"):
        table.add_column(name, justify="right")
    for item in facts:
        for mode, found in item["accuracy"].items():
            table.add_row(escape(item["model"]), mode, "all", *_cells(found), style="bold")
            for level, part in item["by_level"].get(mode, {}).items():
                table.add_row("", "", escape(level), *_cells(part))
    if differences:
        table.add_section()
    for mode, found in differences.items():
        interval = f"{points(found['low'])} to {points(found['high'])}"
        mcnemar = f"McNemar p {p_value(found['p_value'])}"
        table.add_row("difference", mode, mcnemar, points(found["difference"]), interval, count(found["n"]), "", "")
    return table


def _cells(found: Mapping[str, float]) -> list[str]:
    interval = f"{percent(found['low'])}–{percent(found['high'])}"
    share, tokens = percent(found["value"]), f"{found['mean_tokens']:.1f}"
    return [share, interval, count(found["n"]), tokens, percent(found["truncated"])]
