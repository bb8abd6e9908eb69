"""What was measured of exported files, on the terminal: ratios first, then figures, then how far the limit is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from eyas.latency import Figure
from eyas.report.words import confidence, mebibytes, milliseconds
from eyas.runtimes.measurement import Measurement


def names_of(measured: Sequence[Measurement]) -> list[str]:
    """What tables call the files: their names, or whole paths where two names are alike."""
    short = [one.file.name for one in measured]
    return short if len(set(short)) == len(short) else [str(one.file.path) for one in measured]


def ratio_table(measured: Sequence[Measurement], *, baseline: int) -> Table:
    """How many times less each file takes than the baseline; in brackets the least and the greatest of the rounds."""
    first, names = measured[baseline], names_of(measured)
    rounds, certainty = len(first.rounds), confidence(first.tpot_s)
    table = _table(
        f"Times less than {names[baseline]}",
        f"Median of {_rounds(rounds)}, each with all files in turn [least–greatest: {certainty} interval]"
        if rounds > 1
        else "One round: no interval",
    )
    for column in ("file", "TPOT", "TTFT", "E2E", "peak RSS", "size"):
        table.add_column(column, justify="left" if column == "file" else "right", overflow="fold")
    for name, one in zip(names, measured, strict=True):
        if one is not first:
            table.add_row(
                escape(name),
                f"{times(first.tpot_s.over(one.tpot_s))}\n{saved(first.tpot_s.over(one.tpot_s))}",
                times(first.ttft_s.over(one.ttft_s)),
                times(first.e2e_s.over(one.e2e_s)),
                times(first.peak_rss_bytes.over(one.peak_rss_bytes)),
                f"{first.file.bytes / one.file.bytes:.2f}×",
            )
    return table


def times(ratio: Figure) -> str:
    """A ratio with the least and the greatest of its rounds: `2.61× [2.50–2.70]`."""
    spread = f" [{ratio.low:.2f}–{ratio.high:.2f}]" if len(ratio.rounds) > 1 else ""
    return f"{ratio.value:.2f}×{spread}"


def saved(ratio: Figure) -> str:
    """The same as what is saved: `62% saved`."""
    share = 1 - 1 / ratio.value
    return f"{share:.0%} saved" if share >= 0 else f"{-share:.0%} more"


def figure_table(measured: Sequence[Measurement]) -> Table:
    """The figures of every file, a column each; medians of the rounds."""
    table = _table("Measured", "pp, tg: prefill and decode by the library's time alone, as llama-bench counts")
    table.add_column("", no_wrap=True)
    for name in names_of(measured):
        table.add_column(escape(name), justify="right", overflow="fold")
    for label, cell in ROWS:
        table.add_row(label, *(cell(one) for one in measured))
    return table


def energy_text(energy: Figure | None) -> str:
    """Joules a token, or that nothing could be read."""
    return "not measured" if energy is None else f"{energy.value:.3g} J/token"


def _itl(one: Measurement) -> str:
    itl = one.itl_s
    return "/".join(milliseconds(value).removesuffix(" ms") for value in (itl.p50, itl.p90, itl.p99)) + " ms"


ROWS: tuple[tuple[str, Callable[[Measurement], str]], ...] = (
    ("format", lambda one: f"{one.file.format} {one.file.quantisation}"),
    ("size", lambda one: mebibytes(one.file.bytes)),
    ("bits per weight", lambda one: "not told" if (bits := one.file.bits_per_weight) is None else f"{bits:.2f}"),
    ("threads", lambda one: str(one.threads)),
    ("TTFT", lambda one: milliseconds(one.ttft_s.value)),
    ("TPOT", lambda one: milliseconds(one.tpot_s.value)),
    ("ITL p50/p90/p99", _itl),
    ("E2E", lambda one: milliseconds(one.e2e_s.value)),
    ("pp, tokens/s", lambda one: f"{one.prefill_tok_per_s.value:,.0f}"),
    ("tg, tokens/s", lambda one: f"{one.decode_tok_per_s.value:,.1f}"),
    ("outside library", lambda one: f"{one.host_share.value:.1%}"),
    ("load", lambda one: milliseconds(one.load_s.value)),
    ("peak RSS", lambda one: mebibytes(one.peak_rss_bytes.value)),
    ("  before loading", lambda one: mebibytes(one.start_rss_bytes.value)),
    ("energy", lambda one: energy_text(one.energy_j_per_token)),
)


def limit_lines(measured: Sequence[Measurement]) -> list[str]:
    """How near each file's decoding is to what the memory lets through."""
    speed = measured[0].bandwidth_bytes_per_s / 1e9
    lines = [f"Of the memory's limit ({speed:.1f} GB/s read here), decoding reaches:"]
    for name, one in zip(names_of(measured), measured, strict=True):
        share = one.bandwidth_share
        spread = f" [{share.low:.0%}–{share.high:.0%}]" if len(share.rounds) > 1 else ""
        above = "; above 100 % the weights stay in the processor's cache" if share.value > 1 else ""
        lines.append(f"  {name}: {share.value:.0%}{spread}{above}")
    return lines


def setting_lines(measured: Sequence[Measurement], *, machine: str) -> list[str]:
    """Hardware, versions, and what every file was asked to do."""
    first = measured[0]
    versions = sorted({f"{one.runtime} {one.version}" for one in measured})
    lines = [
        f"{machine}. {', '.join(versions)}.",
        f"Prompt {first.prompt_tokens}, completion {first.completion_tokens} tokens, greedy, batch 1, decoding at "
        f"depth {first.prompt_tokens} to {first.prompt_tokens + first.completion_tokens - 1}. A new process each of "
        f"{_rounds(len(first.rounds))}: {first.warmup} to warm up, {first.repeats} that count.",
    ]
    for name, one in zip(names_of(measured), measured, strict=True):
        tried = ", ".join(f"{threads}: {milliseconds(tpot)}" for threads, tpot in one.sweep_tpot_s.items())
        how = f"best of TPOT by threads {tried}" if tried else "as given"
        lines.append(f"{name}: {one.threads} threads, {how}; memory for {one.context_length} tokens.")
    return lines


def _rounds(count: int) -> str:
    return f"{count} rounds" if count > 1 else "one round"


def _table(title: str, caption: str) -> Table:
    return Table(
        box=box.SIMPLE_HEAD,
        title=escape(title),
        title_justify="left",
        caption=escape(caption),
        caption_justify="left",
        pad_edge=False,
    )
