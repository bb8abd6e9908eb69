"""What the models can do, as rows for the page: headline, comparisons, budgets, breakdowns, forgetting, divergence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from markupsafe import Markup

from eyas.recipe import SftStage
from eyas.records import Mode
from eyas.report.compare import PAIRS, Comparison, compare
from eyas.report.evidence import Budget, Evidence
from eyas.report.plots import Dot, dots
from eyas.report.words import count, decimal, describe_role, label, percent


@dataclass(frozen=True)
class HeadlineRow:
    """One evaluated model."""

    role: str
    what: str
    parameters: int
    accuracy: dict[Mode, dict[str, Any]]
    best: frozenset[Mode]
    """Modes in which no other model but the teacher has a higher accuracy."""


@dataclass(frozen=True)
class PairRows:
    """One pair of models, with its comparison in every mode."""

    a: str
    b: str
    modes: list[Comparison]


@dataclass(frozen=True)
class BudgetRow:
    """One way of going on from the SFT checkpoint."""

    role: str
    matched: str
    budget: Budget
    tokens_ratio: float | None
    seconds_ratio: float | None
    """To distillation's."""
    comparisons: list[Comparison]
    """Distilled minus this role."""


@dataclass(frozen=True)
class ForgettingRow:
    """One model on the off-task prompts."""

    role: str
    accuracy: dict[Mode, dict[str, Any]]
    against_base: dict[Mode, Comparison]
    nll: float | None
    nll_change: float | None


def headline(evidence: Evidence) -> list[HeadlineRow]:
    """Every evaluated model."""
    accuracy = {role: evidence.facts(role)["accuracy"] for role in evidence.roles}
    top = {
        mode: max((found[mode]["value"] for role, found in accuracy.items() if role != "teacher" and mode in found),
                  default=None)
        for mode in evidence.modes
    }  # fmt: skip
    return [
        HeadlineRow(
            role=role,
            what=describe_role(evidence, role),
            parameters=evidence.facts(role)["parameters"],
            accuracy=found,
            best=frozenset(mode for mode in found if role != "teacher" and found[mode]["value"] == top[mode]),
        )
        for role, found in accuracy.items()
    ]


def sample_sizes(evidence: Evidence) -> str:
    """How many held-out examples were answered, by mode where that differs."""
    sizes = {
        mode: max(evidence.facts(role)["accuracy"][mode]["n"] for role in evidence.roles
                  if mode in evidence.facts(role)["accuracy"])
        for mode in evidence.modes
    }  # fmt: skip
    if len(set(sizes.values())) == 1:
        return f"n = {count(next(iter(sizes.values())))}{' in each mode' if len(sizes) > 1 else ''}"
    return ", ".join(f"n = {count(n)} in {mode} mode" for mode, n in sizes.items())


def accuracy_charts(evidence: Evidence) -> list[Markup]:
    """One dot-and-interval chart per mode."""
    charts = []
    for mode in evidence.modes:
        rows = []
        for role in evidence.roles:
            found = evidence.facts(role)["accuracy"].get(mode)
            if found:
                value, low, high = (100 * found[key] for key in ("value", "low", "high"))
                rows.append(Dot(label(role), role, value, percent(found["value"]), low, high))
        title = f"{mode.capitalize()} mode"
        charts.append(dots(rows, name=f"accuracy-{mode}", title=title, xlabel="accuracy, %", limits=(0, 100)))
    return charts


def pairs(comparisons: Sequence[Comparison]) -> list[PairRows]:
    """Comparisons grouped by pair, in the order of `PAIRS`."""
    grouped = [PairRows(a, b, [item for item in comparisons if (item.a, item.b) == (a, b)]) for a, b in PAIRS]
    return [row for row in grouped if row.modes]


def widest(comparisons: Sequence[Comparison]) -> float:
    """Half-width of the scale that the intervals are drawn on; those against the base student may lie beyond it."""
    drawn = [item for item in comparisons if item.b != "base"] or list(comparisons)
    return max([0.02, *(abs(end) for item in drawn for end in (item.result.low, item.result.high))])


def budgets(evidence: Evidence, comparisons: Sequence[Comparison]) -> list[BudgetRow]:
    """What distillation, its controls and seqkd spent on top of the checkpoint they share."""
    roles = [role for role in ("distilled", "control", "seqkd", "control_seconds") if role in evidence.evaluations]
    if "distilled" not in roles:
        return []
    own = evidence.budget("distilled")
    rows = []
    for role in roles:
        spent = evidence.budget(role)
        against = [item for item in comparisons if (item.a, item.b) == ("distilled", role)]
        tokens = spent.trained_tokens / own.trained_tokens if own.trained_tokens else None
        seconds = spent.seconds / own.seconds if own.seconds else None
        rows.append(BudgetRow(role, _matched(evidence, role), spent, tokens, seconds, against))
    return rows


def _matched(evidence: Evidence, role: str) -> str:
    stage = evidence.stages.get(evidence.model_name(role))
    if not isinstance(stage, SftStage):
        return "sets the budget" if role == "distilled" else "not matched"
    return "equal tokens" if stage.match_tokens else "equal wall-clock" if stage.match_seconds else "not matched"


def breakdown(
    evidence: Evidence, by: Literal["by_level", "by_source"]
) -> dict[Mode, list[tuple[str, int, list[dict[str, Any] | None]]]]:
    """Per mode: (level or source, examples, accuracy of each role)."""
    made: dict[Mode, list[tuple[str, int, list[dict[str, Any] | None]]]] = {}
    for mode in evidence.modes:
        by_role = [evidence.facts(role)[by].get(mode, {}) for role in evidence.roles]
        rows = [
            (name, max(found[name]["n"] for found in by_role if name in found), [found.get(name) for found in by_role])
            for name in dict.fromkeys(name for found in by_role for name in found)
        ]
        if rows:
            made[mode] = rows
    return made


def pass_at_k(evidence: Evidence) -> tuple[list[str], dict[Mode, list[tuple[str, list[dict[str, Any] | None]]]]]:
    """The k, and per mode (role, pass@k for each); of models that gave several answers an example."""
    sampled = [role for role in evidence.roles if evidence.facts(role)["settings"]["samples_per_prompt"] > 1]
    found = {role: evidence.facts(role)["pass_at_k"] for role in sampled}
    ks = sorted({k for modes in found.values() for values in modes.values() for k in values}, key=int)
    rows = {
        mode: [(role, [modes[mode].get(k) for k in ks]) for role, modes in found.items() if mode in modes]
        for mode in evidence.modes
    }
    return ks, {mode: part for mode, part in rows.items() if part and ks}


def forgetting(evidence: Evidence) -> list[ForgettingRow]:
    """Every model on the off-task prompts, against the base student; empty where there were none."""
    base = evidence.facts("base").get("off_task", {}) if "base" in evidence.evaluations else {}
    rows = []
    for role in evidence.roles:
        facts = evidence.facts(role).get("off_task") or {}
        accuracy, nll = facts.get("accuracy") or {}, facts.get("nll")
        if accuracy or nll is not None:
            before = base.get("nll")
            change = nll - before if nll is not None and before is not None and role != "base" else None
            rows.append(ForgettingRow(role, accuracy, dict(_against_base(evidence, role)), nll, change))
    return rows


def _against_base(evidence: Evidence, role: str) -> Iterator[tuple[Mode, Comparison]]:
    if role == "base" or "base" not in evidence.evaluations:
        return
    ours, theirs = evidence.off_task[role], evidence.off_task["base"]
    for mode in evidence.modes:
        found = compare(ours, theirs, a=role, b="base", mode=mode, seed=evidence.recipe.seed)
        if found is not None:
            yield mode, found


def divergence_charts(evidence: Evidence) -> list[Markup]:
    """KL to the teacher of every student, one chart per source of the prefixes; none where none was measured."""
    measured = {role: evidence.facts(role).get("divergence") or {} for role in evidence.roles if role != "teacher"}
    charts = []
    for prefix in ("teacher", "student"):
        rows = [
            Dot(label(role), role, found[prefix]["value"], decimal(found[prefix]["value"], 3))
            for role, found in measured.items()
            if prefix in found
        ]
        if rows:
            whose = "the teacher’s" if prefix == "teacher" else "the SFT student’s"
            top = max(row.value for row in rows)
            charts.append(
                dots(rows, name=f"divergence-{prefix}", title=f"On {whose} completions",
                     xlabel="KL(teacher ‖ model), nats per token", limits=(0, top or 1.0))
            )  # fmt: skip
    return charts
