"""The result of a run as a terminal table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table

from eyas.records import MODES
from eyas.report.words import label, percent, points, size


def result_table(summary: Mapping[str, Any]) -> Table:
    """Accuracy of every model by mode with its 95 % interval; distillation's gain over its rivals below.

    `summary` is the content of a run's `summary.json`.
    """
    models = summary["models"]
    modes = [mode for mode in MODES if any(mode in model["accuracy"] for model in models.values())]
    table = Table(
        box=box.SIMPLE_HEAD,
        title=summary.get("name"),
        title_justify="left",
        caption=_caption(models, modes),
        caption_justify="left",
    )
    table.add_column("model")
    table.add_column("parameters", justify="right")
    for mode in modes:
        table.add_column(f"{mode}, %", justify="right")
    for role, model in models.items():
        cells = [_accuracy(model["accuracy"].get(mode)) for mode in modes]
        style = "bold" if role == "distilled" else ""
        table.add_row(label(role), size(model["parameters"]), *cells, style=style)
    compared = [item for item in summary["comparisons"] if item["a"] == "distilled" and item["b"] != "base"]
    if compared:
        table.add_section()
    for rival in dict.fromkeys(item["b"] for item in compared):
        by_mode = {item["mode"]: item for item in compared if item["b"] == rival}
        table.add_row(f"distilled − {label(rival)}", "", *(_difference(by_mode.get(mode)) for mode in modes))
    return table


def _accuracy(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "–"
    return f"{percent(found['value'])} [dim]{percent(found['low'])}–{percent(found['high'])}[/]"


def _difference(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "–"
    sure = {"ahead": "green", "behind": "red", "level": "yellow"}[found["outcome"]]
    return f"[{sure}]{points(found['difference'])}[/] [dim]{points(found['low'])} to {points(found['high'])}[/]"


def _caption(models: Mapping[str, Any], modes: list[Any]) -> str:
    numbers = {model["accuracy"][mode]["n"] for model in models.values() for mode in modes if mode in model["accuracy"]}
    if not numbers:
        return "Nothing was evaluated."
    n = str(min(numbers)) if len(numbers) == 1 else f"{min(numbers)}–{max(numbers)}"
    return f"95 % intervals (Wilson; differences: paired), n = {n} a mode"
