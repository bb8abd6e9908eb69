"""Distill: train on rollouts against the teacher's stored scores, (1-lambda) CE + lambda D per completion token."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from eyas.engines.likelihood import student_nll
from eyas.engines.staleness import staleness_after, staleness_before, staleness_sample
from eyas.errors import ArtifactError, DataError
from eyas.recipe import DistillStage
from eyas.records import SequenceRecord
from eyas.selection import delta_ifd
from eyas.storage.batches import TrainingItem
from eyas.storage.context import StageContext
from eyas.storage.difficulty import measured_rates, windowed
from eyas.storage.finetuning import finetune, fit_length, planned_steps, selected
from eyas.storage.nll import DIRECTORY, read_nll
from eyas.storage.scores import read_scores
from eyas.storage.shards import read_records


def run(stage: DistillStage, context: StageContext) -> dict[str, Any]:
    """Select, train and write `model/`; staleness is that of all rollouts, before the selection.

    Raises: ArtifactError, if a sequence has no scores; DataError, if every sequence is too long or left out, or none
        can be told correct though the loss asks for it.
    """
    sequences = list(read_records(context.inputs["sequences"].path / "sequences", kind=SequenceRecord))
    fitting, too_long = fit_length(_scored(stage, context, sequences), max_length=stage.training.max_length)
    items, dropped = selected(
        fitting, spec=stage.selection, stage=stage.name, delta_ifds=_ifds(stage, context, fitting)
    )
    rates = measured_rates(context, curriculum=stage.curriculum, fallback="sequences")
    items, outside = windowed(items, curriculum=stage.curriculum, rates=rates, stage=stage.name)
    size = stage.training.batch_size
    steps = stage.training.steps or max(1, round(len(items) * (stage.training.epochs or 1.0) / size))
    sample = staleness_sample(sequences)
    before = staleness_before(sample, context=context) if sample else None
    facts = finetune(
        items,
        context=context,
        training=stage.training,
        loss=stage.loss,
        curriculum=stage.curriculum,
        rates=rates,
        modes=stage.modes,
        steps=planned_steps(context, lambda: steps),
        card=_card(stage, context, steps),
        temperature=float(context.inputs["scores"].config["temperature"]),
    )
    if before is not None:
        after = staleness_after(sample, before=before, context=context)
        sampling = context.inputs["sequences"].config.get("sampling")
        facts |= {"staleness": {"before": asdict(before), "after": asdict(after), "sampling": sampling}}
    return facts | {"dropped": dropped | outside | {"longer_than_max_length": too_long}}


def _ifds(stage: DistillStage, context: StageContext, items: list[TrainingItem]) -> list[float | None] | None:
    """Delta-IFD of each item, None without a window for it."""
    if stage.selection.delta_ifd is None:
        return None
    sequences = [item.sequence for item in items]
    teacher = read_nll(context.inputs["scores"].path / DIRECTORY)
    student = student_nll(sequences, context=context)
    return [delta_ifd(teacher=teacher[key], student=student[key]) for key in (item.token_hash for item in sequences)]


def _scored(stage: DistillStage, context: StageContext, sequences: list[SequenceRecord]) -> list[TrainingItem]:
    """Sequences joined with their scores by the hash of the token ids."""
    scores = read_scores(context.inputs["scores"].path / "scores")
    by_hash = {item.token_hash: item for item in scores}
    missing = sum(sequence.token_hash not in by_hash for sequence in sequences)
    if missing:
        raise ArtifactError(
            f"{context.inputs['scores'].path}: {missing} of {len(sequences)} sequences have no teacher scores. "
            "Delete that directory and run the recipe again to score them."
        )
    items = [
        TrainingItem(sequence, cross_entropy=_carries_ce(stage, sequence), scores=by_hash[sequence.token_hash])
        for sequence in sequences
    ]
    if stage.loss.ce_on == "correct" and all(sequence.grade is None for sequence in sequences):
        raise DataError(
            f"stage {stage.name!r}: loss.ce_on is `correct`, but none of the {len(items)} sequences has a grade: "
            "their prompts have no answer. Set loss.ce_on to `all` or rollout.prompts to `all`."
        )
    return items


def _carries_ce(stage: DistillStage, sequence: SequenceRecord) -> bool:
    if stage.loss.ce_on == "label":
        return sequence.source == "label"
    return stage.loss.ce_on == "all" or (sequence.grade is not None and sequence.grade >= 1.0)


def _card(stage: DistillStage, context: StageContext, steps: int) -> str:
    loss = stage.loss
    return (
        f"# {context.recipe.name}: {stage.name}\n\nOffline distillation by eyas from `{stage.model}` on {stage.prefix} "
        f"prefixes: lambda {loss.kd_weight:g}, {loss.summary}, {steps} steps of "
        f"{stage.training.batch_size} sequences at learning rate {stage.training.learning_rate:g}, "
        f"seed {context.recipe.seed}.\n"
    )
