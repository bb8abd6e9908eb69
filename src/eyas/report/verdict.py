"""The report's first sentence, computed from the paired comparisons: whoever won, it says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from eyas.report.compare import Comparison
from eyas.report.evidence import Evidence
from eyas.report.words import in_text, percent, points

RIVALS = ("control", "seqkd", "control_seconds")
"""What distillation has to beat, in the order in which a defeat is told."""

Standing = Literal["won", "lost", "mixed", "level"]


@dataclass(frozen=True)
class Verdict:
    """One sentence, and the sentences that qualify it."""

    headline: str
    details: tuple[str, ...]


def standing(comparisons: Sequence[Comparison]) -> Standing:
    """Of `distilled` against one rival, over the modes: lost if it is behind in one and ahead in none."""
    outcomes = {comparison.outcome for comparison in comparisons}
    if {"ahead", "behind"} <= outcomes:
        return "mixed"
    return "won" if "ahead" in outcomes else "lost" if "behind" in outcomes else "level"


def numbers(comparisons: Sequence[Comparison]) -> str:
    """Differences with their intervals, mode by mode, in words."""
    parts = []
    for at, comparison in enumerate(comparisons):
        found = comparison.result
        interval = f"{'' if at else '95 % interval '}{points(found.low)} to {points(found.high)}"
        value = f"{points(found.difference)}{'' if at else ' points'}"
        if comparison.outcome == "level":
            parts.append(f"no difference shown in {comparison.mode} mode ({value}, {interval})")
        else:
            parts.append(f"{value} in {comparison.mode} mode ({interval})")
    return " and ".join(parts)


def judge(evidence: Evidence, comparisons: Sequence[Comparison]) -> Verdict:
    """The verdict. `won` and `lost` rest on `Comparison.outcome`, never on which number is larger."""
    against = _against(comparisons)
    if "distilled" not in evidence.evaluations:
        return Verdict("No distilled model was evaluated in this run.", ())
    rivals = {role: against[role] for role in RIVALS if role in against}
    if not rivals:
        return Verdict(_without_rivals(against), (*_missing(rivals), *_gap(evidence), *_forgetting(evidence)))
    standings = {role: standing(found) for role, found in rivals.items()}
    first = next(iter(rivals))
    lost = [role for role, how in standings.items() if how == "lost"]
    if lost:
        first, lead = lost[0], f"{_names(lost)} won over distillation: distilled minus {in_text(lost[0])} is "
    elif standings[first] == "mixed":
        lead = f"A mixed result: distilled minus {in_text(first)} is "
    elif standings[first] == "level":
        lead = f"No difference shown between distillation and {in_text(first)}: "
    else:
        lead = f"Distillation beat {in_text(first)}: "
    headline = lead + numbers(rivals[first])
    told = [first]
    for role in rivals:
        if role != first and (standings[role] in ("lost", "mixed")):
            headline += f"; minus {in_text(role)} it is {numbers(rivals[role])}"
            told.append(role)
    details = [
        f"Distilled minus {in_text(role)}: {numbers(found)}." for role, found in rivals.items() if role not in told
    ]
    return Verdict(
        headline + ".", (*details, *_missing(rivals), *_shortfall(evidence), *_gap(evidence), *_forgetting(evidence))
    )


def _against(comparisons: Sequence[Comparison]) -> Mapping[str, list[Comparison]]:
    found: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        if comparison.a == "distilled":
            found.setdefault(comparison.b, []).append(comparison)
    return found


def _names(roles: Sequence[str]) -> str:
    text = " and ".join("SeqKD" if role == "seqkd" and not at else in_text(role) for at, role in enumerate(roles))
    return text[0].upper() + text[1:]


def _without_rivals(against: Mapping[str, list[Comparison]]) -> str:
    for role in ("sft", "base"):
        if role in against:
            return (
                f"No control was evaluated, so more training alone may explain this: distilled minus {in_text(role)} "
                f"is {numbers(against[role])}."
            )
    return "Only the distilled model was evaluated, so nothing can be said of what distillation did."


def _missing(rivals: Mapping[str, object]) -> list[str]:
    return [
        f"This run has no {in_text(role).removeprefix('the ')}: {why}."
        for role, why in (
            ("control", "the gain of training on labels for as many tokens is unknown"),
            ("seqkd", "the gain of training on the teacher’s text alone is unknown"),
            ("control_seconds", "the gain of training on labels for as long is unknown"),
        )
        if role not in rivals
    ]


def _shortfall(evidence: Evidence) -> list[str]:
    """Which rivals got less than distillation of what was to be equal: training tokens or time."""
    own = evidence.budget("distilled")
    told = []
    for role, what in (("control", "training tokens"), ("seqkd", "training tokens"), ("control_seconds", "time")):
        if role in evidence.evaluations:
            spent = evidence.budget(role)
            share = (
                spent.seconds / max(own.seconds, 1e-9)
                if what == "time"
                else spent.trained_tokens / max(own.trained_tokens, 1)
            )
            if share < 0.95:
                name = in_text(role) if role == "seqkd" else in_text(role).capitalize()
                told.append(f"{name} got only {percent(share, 0)} % of distillation’s {what}.")
    return told


def _forgetting(evidence: Evidence) -> list[str]:
    """Off-task accuracy before and after, where it fell by more than 2 points; and what SFT had left of it."""
    if not {"base", "distilled"} <= evidence.evaluations.keys():
        return []
    found = {
        role: (evidence.facts(role).get("off_task") or {}).get("accuracy") or {}
        for role in ("base", "sft", "distilled")
        if role in evidence.evaluations
    }
    if not found["base"]:
        return ["This run has no off-task prompts: what was forgotten is unknown."]
    parts = []
    for mode in evidence.modes:
        value = {role: accuracy[mode]["value"] for role, accuracy in found.items() if mode in accuracy}
        if {"base", "distilled"} <= value.keys() and value["base"] - value["distilled"] > 0.02:
            part = f"from {percent(value['base'], 0)} to {percent(value['distilled'], 0)} % in {mode} mode"
            parts.append(part + (f" ({percent(value['sft'], 0)} % after SFT)" if "sft" in value else ""))
    return [f"Off the task it forgot: accuracy there fell {' and '.join(parts)}."] if parts else []


def _gap(evidence: Evidence) -> list[str]:
    """How much of the way from the control (else from SFT) to the teacher was made, where any of it was and the way
    is longer than 2 points."""
    origin = next((role for role in ("control", "sft") if role in evidence.evaluations), None)
    if origin is None or "teacher" not in evidence.evaluations:
        return []
    parts = []
    for mode in evidence.modes:
        start, end, goal = (
            evidence.facts(role)["accuracy"].get(mode, {}).get("value") for role in (origin, "distilled", "teacher")
        )
        if None not in (start, end, goal) and goal - start > 0.02 and end >= start:
            parts.append(f"{percent((end - start) / (goal - start), 0)} % in {mode} mode")
    gap = f"Of the gap between {in_text(origin)} and the teacher, distillation closed"
    return [f"{gap} {' and '.join(parts)}."] if parts else []
