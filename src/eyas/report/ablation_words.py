"""An ablation in sentences: what came out, and what it must not be read as."""

from __future__ import annotations

from collections.abc import Sequence

from eyas.records import Mode
from eyas.report.ablation import Ablation, Difference, Outcome, Row, Verdict, against_baseline, names, within_variants
from eyas.report.words import count, in_text, label, points

VERDICTS: tuple[tuple[Outcome, str, str], ...] = (
    ("held", "held", "held"),
    ("contradicted", "was contradicted", "were contradicted"),
    ("not shown", "is not shown", "are not shown"),
    ("not run", "was not run", "were not run"),
)
"""A verdict as a predicate of one claim, and of several."""
NAMED = 4
"""So many differences a mode are told in the first sentence; the rest are counted."""


def answer(ablation: Ablation, made: Sequence[Row], verdicts: Sequence[Verdict]) -> str:
    """The first thing on the page: how many claims held, else which variants are ahead of the baseline or behind."""
    if verdicts:
        return _claims(verdicts)
    if not made:
        return "No run finished, so nothing can be said."
    if len(ablation.variants) == 1:
        found = [item for item in within_variants(ablation, made) if item.a.main]
        return (
            " ".join(filter(None, (_rivals(found, mode) for mode in ablation.modes))) or "There is nothing to compare."
        )
    found = [item for item in against_baseline(ablation, made) if item.a.main]
    baseline = ablation.variants[ablation.baseline]
    told = (
        _standing(ablation, [item for item in found if item.mode == mode], baseline, mode) for mode in ablation.modes
    )
    return " ".join(filter(None, told)) or f"Nothing can be compared with {baseline}."


def _claims(verdicts: Sequence[Verdict]) -> str:
    numbers = {outcome: sum(item.outcome == outcome for item in verdicts) for outcome, _, _ in VERDICTS}
    parts = [
        f"{count(numbers[outcome]) if numbers[outcome] else 'none'} {one if numbers[outcome] == 1 else several}"
        for outcome, one, several in VERDICTS
        if numbers[outcome] or outcome == "held"
    ]
    of = f"Of {count(len(verdicts))} claims " if len(verdicts) > 1 else "Of one claim "
    return f"{of}{_listed(parts)}."


def _standing(ablation: Ablation, found: Sequence[Difference], baseline: str, mode: Mode) -> str:
    if not found:
        return ""
    parts = []
    for outcome, words in (("ahead", f"ahead of {baseline}"), ("behind", f"behind {baseline}")):
        items = sorted(
            (item for item in found if item.outcome == outcome), key=lambda item: -abs(item.result.difference)
        )
        shown = [f"{names(ablation, item.a)} ({points(item.result.difference)} points)" for item in items[:NAMED]]
        more = [f"{len(items) - NAMED} more"] if len(items) > NAMED else []
        if items:
            parts.append(f"{_listed([*shown, *more])} {'is' if len(items) == 1 else 'are'} {words}")
    level = [names(ablation, item.a) for item in found if item.outcome == "level"]
    if level:
        others = (
            _listed(level) if len(level) <= NAMED // 2 else f"{count(len(level))} {'others' if parts else 'variants'}"
        )
        parts.append(f"between {baseline} and {others} no difference is shown")
    return f"In {mode} mode {'; '.join(parts)}."


def _rivals(found: Sequence[Difference], mode: Mode) -> str:
    items = [item for item in found if item.mode == mode]
    told = {"ahead": "ahead of", "behind": "behind", "level": "not shown to differ from"}
    parts = [f"{told[item.outcome]} {in_text(item.b.role)} ({points(item.result.difference)})" for item in items]
    return f"In {mode} mode {label(items[0].a.role).lower()} is {_listed(parts)}." if items else ""


def caveats(ablation: Ablation, made: Sequence[Row]) -> list[str]:
    """What a reader must know before the numbers: failures, a single seed, variants that are one and the same model."""
    seeds, variants = len(ablation.seeds), len(ablation.variants)
    runs = f"{count(variants)} variant{'s' * (variants > 1)}, {count(seeds)} seed{'s' * (seeds > 1)}"
    failed = len(ablation.failures)
    told = [f"{runs}, {count(failed)} of {count(variants * seeds)} runs failed." if failed else f"{runs}."]
    if seeds == 1:
        told.append("One seed: the intervals cover the choice of test examples, not the luck of training.")
    for row in made:
        if row.main and len(row.variants) > 1 and variants > 1:
            told.append(
                f"{_listed(row.variants)} made one and the same model: nothing that tells them apart in the recipe "
                "reached it."
            )
    return told


def chance(comparisons: int) -> str:
    """How many of so many differences would be called more than chance if there were none."""
    if not comparisons:
        return ""
    expected = 0.05 * comparisons
    number = "fewer than one" if expected < 0.75 else f"about {expected:.0f}"
    return (
        f"{count(comparisons)} difference{'s' * (comparisons > 1)}, none corrected for their number: "
        f"if no models differed, {number} would be called ahead or behind."
    )


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""
