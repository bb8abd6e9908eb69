"""How the models were made, as rows for the page: data, curves, rollouts, cache, cost, hardware."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from eyas.filtering.reasons import REASONS
from eyas.recipe import DistillStage, RolloutStage, SftStage, SynthesizeStage
from eyas.records import MODES
from eyas.report.evidence import Evidence
from eyas.report.plots import PALETTE, Curve, curves
from eyas.report.summary import data_counts, training_scores
from eyas.report.words import count, in_text


@dataclass(frozen=True)
class RolloutRow:
    """One rollout stage in one mode."""

    stage: str
    sampler: str
    prompts: str
    mode: str
    facts: dict[str, Any]


@dataclass(frozen=True)
class CostRow:
    """One stage's time and tokens."""

    name: str
    type: str
    seconds: float
    share: float
    """Of the longest stage, for the bar."""
    tokens: int


def regime(evidence: Evidence) -> str:
    """One sentence: how many labels and how many prompts without answers, and which stages used them."""
    counts = data_counts(evidence)
    labelled, unlabelled = set[str](), set[str]()
    for name in evidence.trainings():
        stage = evidence.stages[name]
        if isinstance(stage, SftStage | DistillStage):
            sequences = evidence.stages.get(sequences_of(evidence, stage) or "")
            splits = sequences.prompts if isinstance(sequences, RolloutStage | SynthesizeStage) else "labelled"
            labelled |= {name} if splits in ("labelled", "all") else set()
            unlabelled |= {name} if splits in ("unlabelled", "all") else set()

    def used(names: set[str]) -> str:
        ordered = [name for name in evidence.stages if name in names]
        return f" (trained on by {', '.join(ordered)})" if ordered else ""

    text = f"{count(counts.get('labelled', 0))} labelled examples{used(labelled)}"
    if counts.get("unlabelled"):
        text += f" and {count(counts['unlabelled'])} prompts without answers{used(unlabelled)}"
    return text


def sequences_of(evidence: Evidence, stage: SftStage | DistillStage) -> str | None:
    """Name of the stage whose sequences are trained on; None for labels."""
    if isinstance(stage, SftStage):
        return stage.sequences
    score = evidence.stages.get(stage.scores or "")
    return score.sequences if score is not None and score.type == "score" else None


def drops(evidence: Evidence) -> list[tuple[str, str, str, int]]:
    """(stage, reason, what it means where it is one of preparation's, examples) left out."""
    rows = []
    for name, artifact in evidence.artifacts.items():
        for reason, number in (artifact.facts.get("dropped") or {}).items():
            if number:
                rows.append((name, reason.replace("_", " "), REASONS.get(reason, ""), number))
        if not_drawn := artifact.facts.get("excluded_ids_not_drawn"):
            rows.append((name, "not drawn", "ids in the exclude file that none of the examples drawn has", not_drawn))
        if rejected := artifact.facts.get("test_answers_rejected_by_their_grader"):
            rows.append((name, "kept", "test examples: their own grader rejects the reference answer", rejected))
        if too_long := artifact.facts.get("too_long"):
            rows.append((name, "answered wrong", "prompts that do not fit into the model's context", too_long))
    return rows


def repeats(evidence: Evidence) -> list[dict[str, str]]:
    """A few of the near-duplicates and leaks: `stage`, `reason`, `id`, `text`, `of`, `of_text`."""
    return [
        {**row, "stage": name, "reason": row["reason"].replace("_", " ")}
        for name, artifact in evidence.artifacts.items()
        for row in artifact.facts.get("dropped_examples") or []
    ]


@dataclass(frozen=True)
class StalenessRow:
    """How far a round's student was from the policy that sampled its rollouts, before and after the training."""

    stage: str
    before: dict[str, float]
    after: dict[str, float]
    sampling: str


def staleness(evidence: Evidence) -> list[StalenessRow]:
    """One row per distillation round whose sequences a student sampled."""
    rows = []
    for name in evidence.trainings():
        found = evidence.artifacts[name].facts.get("staleness")
        if found:
            sampling = found.get("sampling") or {}
            kept = [key for key in ("temperature", "top_p", "min_p") if sampling.get(key)]
            text = ", ".join(f"{key.replace('_', '-')} {sampling[key]:g}" for key in kept)
            rows.append(StalenessRow(name, found["before"], found["after"], text))
    return rows


def training_charts(evidence: Evidence) -> list[Markup]:
    """One chart of the loss per training stage that left a log."""
    colours = {evidence.model_name(role): PALETTE.get(role, PALETTE["sft"]) for role in reversed(evidence.roles)}
    charts = []
    for name in evidence.trainings():
        path = evidence.artifacts[name].path / "log.jsonl"
        points = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
        distills = evidence.artifacts[name].stage == "distill"
        colour = colours.get(name, PALETTE["distilled"] if distills else PALETTE["sft"])
        kinds = {"kd": colour, "ce": PALETTE["base"]} if distills else {"loss": colour}
        named = {"kd": "KL", "ce": "CE", "loss": "CE"}
        lines = [_curve(points, key, named[key], shade) for key, shade in kinds.items()]
        found = [line for line in lines if line is not None]
        candidates = evidence.artifacts[name].facts.get("candidates") or []
        marks = [mark for mark in [_curve(candidates, "accuracy", "validation", PALETTE["teacher"])] if mark]
        if found:
            charts.append(curves(found, name=f"curve-{name}", title=name, marks=marks))
    return charts


def _curve(points: list[dict[str, float]], key: str, text: str, colour: str) -> Curve | None:
    known = [(point["step"], point[key]) for point in points if key in point]
    return Curve(text, [step for step, _ in known], [value for _, value in known], colour) if known else None


def selections(evidence: Evidence) -> list[tuple[str, int, float]]:
    """(stage, chosen step, its validation accuracy) where the best checkpoint was chosen."""
    found = []
    for name in evidence.trainings():
        facts = evidence.artifacts[name].facts
        scores = {row["step"]: row["accuracy"] for row in facts.get("candidates") or []}
        if facts.get("selected_step") in scores:
            found.append((name, facts["selected_step"], scores[facts["selected_step"]]))
    return found


def rollouts(evidence: Evidence) -> list[RolloutRow]:
    """Every rollout by mode, but for those that only measure the divergence."""
    return list(_rollouts(evidence))


def _rollouts(evidence: Evidence) -> Iterator[RolloutRow]:
    measured = evidence.divergence_rollouts()
    for name, stage in evidence.stages.items():
        if isinstance(stage, RolloutStage) and name not in measured:
            facts = evidence.artifacts[name].facts
            sampler = "references" if stage.prefix == "label" else stage.model
            for mode in MODES:
                if mode in facts:
                    yield RolloutRow(name, sampler, stage.prompts, mode, facts[mode])


def cache(evidence: Evidence) -> list[tuple[str, dict[str, Any]]]:
    """(score stage, facts) of the teacher scores that something was trained on."""
    return [(name, dict(evidence.artifacts[name].facts)) for name in training_scores(evidence)]


def costs(evidence: Evidence) -> list[CostRow]:
    """Every stage in order."""
    seconds = {name: evidence.seconds(name) for name in evidence.stages}
    longest = max(seconds.values(), default=0) or 1.0
    return [
        CostRow(name, evidence.artifacts[name].stage, spent, spent / longest, evidence.tokens(name))
        for name, spent in seconds.items()
    ]


def divergence_note(evidence: Evidence) -> str:
    """How many tokens the divergence was measured on."""
    found: dict[str, int] = {}
    for role in evidence.roles:
        for prefix, facts in (evidence.facts(role).get("divergence") or {}).items():
            found[prefix] = facts["tokens"]
    whose = {"teacher": in_text("teacher"), "student": in_text("sft")}
    return ", ".join(f"{count(tokens)} tokens by {whose.get(prefix, prefix)}" for prefix, tokens in found.items())
