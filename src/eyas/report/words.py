"""Numbers and roles as a reader sees them."""

from __future__ import annotations

from eyas.latency import Figure
from eyas.recipe import DistillStage, SftStage
from eyas.report.evidence import Evidence

LABELS = {
    "base": "Base",
    "sft": "SFT",
    "control": "Control",
    "control_seconds": "Control, equal time",
    "seqkd": "SeqKD",
    "distilled": "Distilled",
    "teacher": "Teacher",
}
IN_TEXT = {
    "base": "the base student",
    "sft": "the SFT checkpoint",
    "control": "the control",
    "control_seconds": "the equal-time control",
    "seqkd": "seqkd",
    "distilled": "distilled",
    "teacher": "the teacher",
}


def label(role: str) -> str:
    """Role as a row heading; a role of the user's own stays as it is."""
    return LABELS.get(role, role)


def in_text(role: str) -> str:
    """Role inside a sentence."""
    return IN_TEXT.get(role, role)


def percent(share: float | None, digits: int = 1) -> str:
    """0.824 -> `82.4`; a dash for None."""
    return "–" if share is None else f"{100 * share:.{digits}f}"


def points(share: float, digits: int = 1) -> str:
    """0.085 -> `+8.5`, with a true minus sign; what rounds to nothing is `0.0`."""
    text = f"{100 * share:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def count(number: float | None) -> str:
    """12345 -> `12,345`; a dash for None."""
    return "–" if number is None else f"{number:,.0f}"


def decimal(number: float | None, digits: int = 2) -> str:
    """A plain decimal; a dash for None; what rounds to nothing has no sign."""
    if number is None:
        return "–"
    text = f"{number:,.{digits}f}"
    return text.lstrip("-") if not text.strip("-0.,") else text.replace("-", "−")


def size(number: float | None) -> str:
    """161280 -> `161 k`, 1.2e9 -> `1.2 B`: parameters and tokens."""
    if number is None:
        return "–"
    for unit, scale in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= scale:
            value = number / scale
            return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
    return f"{number:.0f}"


def duration(seconds: float) -> str:
    """83.2 -> `1 min 23 s`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {whole % 60} s"


def mebibytes(count: float) -> str:
    """0.61 MiB, 258 MiB: bytes of files and memory."""
    value = count / 2**20
    return f"{value:,.0f} MiB" if value >= 100 else f"{value:.3g} MiB"


def milliseconds(seconds: float) -> str:
    """Three digits that count: `0.0712 ms`, `12.3 ms`."""
    value = 1000 * seconds
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.3g} ms"


def nats(value: float) -> str:
    """Two digits that count, of divergences from 1 to 10⁻⁹: `0.35`, `7.3e-6`."""
    return f"{value:.2g}".replace("e-0", "e-")


def less(ratio: Figure) -> str:
    """A ratio as what it saves: 0.38 -> `62 % less`."""
    return f"{abs(1 - ratio.value):.0%}".replace("%", " % less" if ratio.value <= 1 else " % more")


def less_span(ratio: Figure) -> str:
    """Of the rounds the one that saves least, and the one that saves most: `60 to 63`; negative where it costs more."""
    return f"{percent(1 - ratio.high, 0)} to {percent(1 - ratio.low, 0)}".replace("-", "−")


def confidence(figure: Figure) -> str:
    """Of [least, greatest] of the rounds: five `94%`, nine `99.6%`; of a thousand no more than `99.9%`, never all."""
    share = figure.confidence
    return f"{share:.0%}" if share < 0.99 else f"{min(share, 0.999):.1%}"


def p_value(p: float) -> str:
    """0.0314 -> `0.031`; very small ones as a bound."""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def describe_role(evidence: Evidence, role: str) -> str:
    """What the model behind a role is, from the recipe."""
    name = evidence.model_name(role)
    stage = evidence.stages.get(name)
    if isinstance(stage, DistillStage):
        rounds = len([made for made in evidence.lineage(role) if evidence.stages[made].type == "distill"])
        return f"SFT + KD on {stage.prefix} prefixes, {rounds} round{'s' * (rounds > 1)}"
    if isinstance(stage, SftStage):
        if role == "sft" and stage.sequences is None:
            return "curriculum SFT on labels"
        more = "more SFT" if stage.match_tokens or stage.match_seconds else "SFT"
        what = "SFT on the teacher’s completions" if stage.sequences else f"{more} on labels"
        budget = ", equal tokens" if stage.match_tokens else ", equal wall-clock" if stage.match_seconds else ""
        return what + budget
    spec = evidence.recipe.teacher if name == "teacher" else evidence.recipe.student
    return (spec.from_ or "from a config") if spec is not None else name
