"""The deployment table on the terminal: files, what they are to the teacher's, and which one to ship."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from eyas.budget import AS_GOOD, Budget, Recommendation, accuracy_of, value_of
from eyas.export.checked import Checked
from eyas.latency import Figure
from eyas.records import MODES
from eyas.report.words import label, less, mebibytes, milliseconds, percent, points

LIMITS = {
    "rss_bytes": ("peak RSS", mebibytes), "bytes": ("size", mebibytes),
    "ttft_s": ("TTFT", milliseconds), "tpot_s": ("TPOT", milliseconds),
}  # fmt: skip
FIGURES = {"peak_rss_bytes": 2.0**-20, "ttft_s": 1e3, "tpot_s": 1e3, "decode_tok_per_s": 1.0}


def deployment_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One row per exported file; `rows` are `deployment` of `summary.json`."""
    modes = [mode for mode in MODES if any(mode in row["accuracy"] for row in rows)]
    table = Table(
        box=box.SIMPLE_HEAD, title="On this machine", title_justify="left", caption_justify="left", pad_edge=False,
        caption="Accuracy by the file itself, 95 % intervals. TTFT, TPOT: medians of the rounds, each file at its best "
        "number of threads.",
    )  # fmt: skip
    table.add_column("file", no_wrap=True)
    for column in (
        *(f"{mode}, %" for mode in modes),
        "size,\nMiB",
        "RSS,\nMiB",
        "TTFT,\nms",
        "TPOT,\nms",
        "tg,\ntok/s",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            f"{label(row['model'])}\n[dim]{row['format']}[/]",
            *(_interval(row["accuracy"].get(mode)) for mode in modes),
            _number(row["bytes"] / 2**20),
            *(_number(value_of(row, key), scale) for key, scale in FIGURES.items()),
            style="bold" if row["model"] == "distilled" else "",
        )
    return table


def _interval(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "–"
    return f"{percent(found['value'])}\n[dim]{percent(found['low'])}–{percent(found['high'])}[/]"


def _number(value: float | None, scale: float = 1.0) -> str:
    """Three digits that count; a dash for None."""
    if value is None:
        return "–"
    return f"{value * scale:,.0f}" if value * scale >= 100 else f"{value * scale:.3g}"


def ratio_lines(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """One sentence per file that the teacher has in the same format."""
    for row in rows:
        beside = row["teacher"]
        if beside is None:
            continue
        parts = [
            f"{name} {less(Figure((beside[key]['value'],)))} [{percent(1 - beside[key]['high'], 0)} to "
            f"{percent(1 - beside[key]['low'], 0)}]"
            for key, name in (("tpot_s", "TPOT"), ("ttft_s", "TTFT"), ("peak_rss_bytes", "peak RSS"))
            if key in beside
        ]
        gains = [
            f"{points(found['difference'])} [{points(found['low'])}, {points(found['high'])}] points {mode}"
            for mode, found in beside["accuracy"].items()
        ]
        yield (
            f"{label(row['model'])} beside the teacher, both {row['format']}: {beside['size']:.1f} times smaller, "
            + ", ".join([*parts, *gains])
            + "."
        )


def recommendation_lines(found: Recommendation, budget: Budget) -> Iterator[str]:
    """Which file to ship, and why."""
    limits = [
        f"{name} ≤ {write(limit)}"
        for key, (name, write) in LIMITS.items()
        if (limit := getattr(budget, key)) is not None
    ]
    within = (
        f"Within {', '.join(limits)}" if limits else "Without a budget (--max-rss, --max-ttft, --max-tpot, --max-size)"
    )
    if not found.candidates:
        yield (
            "Nothing to recommend: no file was both asked held-out examples (--examples above 0) and measured (a "
            "format that runs here)."
        )
        return
    if found.row is None or found.best is None:
        yield f"{within}: no measured file fits."
        return
    ship, best = found.row, found.best
    yield (
        f"{within}: ship {label(ship['model'])} {ship['format']} ({ship['file']}), {found.fitting} "
        f"file{'s' if found.fitting > 1 else ''} fit{'s' if found.fitting == 1 else ''}."
    )
    if ship is best:
        yield f"It is the most accurate that fits, {percent(accuracy_of(ship))} % over the modes."
    else:
        yield (
            f"It is the fastest of those at most {100 * AS_GOOD:g} points below the most accurate that fits, "
            f"{label(best['model'])} {best['format']}: {percent(accuracy_of(ship))} and {percent(accuracy_of(best))} % "
            f"over the modes, TPOT {milliseconds(ship['tpot_s']['value'])} and {milliseconds(best['tpot_s']['value'])}."
        )


def export_line(made: Checked) -> str:
    """What `eyas export` says of a file it has written."""
    said = f"{made.path}: {mebibytes(made.exported.bytes)}, {made.facts()['bits_per_weight']:.1f} bits a weight. "
    parity = made.parity
    if parity is None:
        return f"{said}Read back by {made.compared_by}, every weight is bit-equal."
    return (
        f"{said}Against the model by {made.compared_by} on {parity.positions:,} positions: log-probs of the top 50 at "
        f"most {parity.max_error_nats:.2g} nats off, KL {parity.kl_nats:.1e} nats, {parity.greedy_agreed} of "
        f"{parity.greedy_tokens} greedy tokens before the first other one."
    )
