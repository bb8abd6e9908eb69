"""What difficulty was measured and decided, and which labels a teacher gave, as rows for the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from eyas.recipe import DistillStage, RolloutStage, SftStage, SynthesizeStage
from eyas.records import MODES
from eyas.report.evidence import Evidence
from eyas.report.plots import PALETTE, Curve, histogram
from eyas.report.process import sequences_of

COLOURS = {"reasoning": PALETTE["distilled"], "fast": PALETTE["control"]}
OUTSIDE = ("pass_rate_below_window", "pass_rate_above_window")


@dataclass(frozen=True)
class CurriculumRow:
    """A training stage with a curriculum."""

    stage: str
    decides: str
    measured: str
    """By whose rollouts, and how many a prompt; empty where the signal is another one than the pass rate."""
    known: Mapping[str, Any]
    """Examples by how their pass rate is known."""
    outside: int | None
    """Sequences that the window left out; None without one."""
    weights: str
    """The least and the largest weight; empty where all are 1."""


@dataclass(frozen=True)
class SynthesisRow:
    """A synthesize stage: what became of its prompts (each in each mode), and how long the kept answers are."""

    stage: str
    sampler: str
    facts: Mapping[str, Any]
    without: int
    """Prompts that got no label."""


def curricula(evidence: Evidence) -> list[CurriculumRow]:
    """One row per training stage in which difficulty decides anything."""
    found = []
    for name, stage in _with_curriculum(evidence).items():
        facts = evidence.artifacts[name].facts
        known, dropped = facts["pass_rates"], facts.get("dropped") or {}
        rollout = _measured(evidence, stage)
        weights = known.get("weights")
        found.append(
            CurriculumRow(
                stage=name,
                decides=", ".join(stage.curriculum.decides),
                measured=f"{rollout.model}, {rollout.samples_per_prompt}" if rollout is not None else "",
                known=known,
                outside=sum(dropped.get(reason, 0) for reason in OUTSIDE) if stage.curriculum.window else None,
                weights="{:.2f}–{:.2f}".format(*weights) if weights else "",
            )
        )
    return found


def pass_rate_charts(evidence: Evidence) -> list[Markup]:
    """How many examples have which pass rate, a chart per set of rollouts that a curriculum follows."""
    charts: dict[str, Markup] = {}
    for name, stage in _with_curriculum(evidence).items():
        rollout = _measured(evidence, stage)
        spread = evidence.artifacts[name].facts["pass_rates"].get("distribution")
        if rollout is not None and spread and rollout.name not in charts:
            parts = [
                Curve(mode, [float(share) for share in spread[mode]], list(spread[mode].values()), COLOURS[mode])
                for mode in MODES
                if mode in spread
            ]
            charts[rollout.name] = histogram(parts, name=f"rates-{rollout.name}", title=rollout.name)
    return list(charts.values())


def syntheses(evidence: Evidence) -> list[SynthesisRow]:
    """One row per synthesize stage."""
    found = []
    for name, stage in evidence.stages.items():
        if isinstance(stage, SynthesizeStage):
            facts = evidence.artifacts[name].facts
            found.append(SynthesisRow(name, stage.model, facts, sum((facts.get("dropped") or {}).values())))
    return found


def _with_curriculum(evidence: Evidence) -> dict[str, SftStage | DistillStage]:
    stages = {name: evidence.stages[name] for name in evidence.trainings()}
    return {
        name: stage
        for name, stage in stages.items()
        if isinstance(stage, SftStage | DistillStage) and stage.curriculum.decides
    }


def _measured(evidence: Evidence, stage: SftStage | DistillStage) -> RolloutStage | None:
    """The rollouts whose pass rates a stage follows."""
    if not stage.curriculum.needs_pass_rates:
        return None
    found = evidence.stages.get(stage.curriculum.rollouts or sequences_of(evidence, stage) or "")
    return found if isinstance(found, RolloutStage) else None
