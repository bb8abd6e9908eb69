"""SFT: cross-entropy on the completions of labels, or of sequences that another model wrote (seqkd)."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from eyas.engines.respondent import Respondent
from eyas.engines.transformers import TransformersEngine
from eyas.errors import DataError
from eyas.grading import can_grade
from eyas.recipe import LossSpec, SftStage
from eyas.records import MODES, Example, SequenceRecord
from eyas.storage.artifacts import Artifact
from eyas.storage.batches import TrainingItem
from eyas.storage.context import StageContext
from eyas.storage.difficulty import measured_rates, windowed
from eyas.storage.finetuning import finetune, fit_length, planned_steps, selected
from eyas.storage.shards import read_records
from eyas.storage.tokenization import label_sequence, load_tokenizer, stop_ids, vocabulary_size

PLAIN = LossSpec(kd_weight=0.0)


def run(stage: SftStage, context: StageContext) -> dict[str, Any]:
    """Train and write `model/`.

    Raises: DataError, if no labelled example has what the stage's modes need, no sequence is left to train on, or the
        best checkpoint is to be chosen by validation examples without answers.
    """
    sequences = _sequences(stage, context)
    items, too_long = fit_length([TrainingItem(item) for item in sequences], max_length=stage.training.max_length)
    dropped: dict[str, int] = {}
    if stage.sequences is not None:
        items, dropped = selected(items, spec=stage.selection, stage=stage.name)
    rates = measured_rates(context, curriculum=stage.curriculum, fallback=None)
    items, outside = windowed(items, curriculum=stage.curriculum, rates=rates, stage=stage.name)
    steps = planned_steps(context, lambda: _steps(stage, context, items))
    selections = sorted({max(1, steps * part // stage.selections) for part in range(1, stage.selections + 1)})
    facts = finetune(
        items,
        context=context,
        training=stage.training,
        loss=PLAIN,
        curriculum=stage.curriculum,
        rates=rates,
        modes=stage.modes,
        steps=steps,
        card=_card(stage, context, steps),
        selections=selections if stage.select == "best" else (),
        validate=_validator(stage, context) if stage.select == "best" else None,
    )
    return facts | {"dropped": dropped | outside | {"longer_than_max_length": too_long}}


def _sequences(stage: SftStage, context: StageContext) -> list[SequenceRecord]:
    if stage.sequences is not None:
        found = read_records(context.inputs["sequences"].path / "sequences", kind=SequenceRecord)
        return [item for item in found if item.mode in stage.modes]
    path = context.model_path()
    tokenizer = load_tokenizer(path)
    stop_id = stop_ids(tokenizer, path)[0]
    labelled = list(read_records(context.inputs["data"].path / "examples" / "labelled", kind=Example))
    made = [
        label_sequence(tokenizer, example, mode, thinking=context.recipe.thinking, stop_id=stop_id)
        for mode in MODES
        if mode in stage.modes
        for example in labelled
    ]
    return [sequence for sequence in made if sequence is not None]


def _steps(stage: SftStage, context: StageContext, items: list[TrainingItem]) -> int:
    """Optimiser steps of the stage's budget: steps, epochs, or what the matched distillation spent."""
    size = stage.training.batch_size
    mean = _mean_length(stage, items)
    trained = [made for made in context.rounds if made.stage in ("sft", "distill")]
    if stage.match_tokens is not None:
        return max(1, round(sum(int(made.facts["tokens"]) for made in trained) / (mean * size)))
    if stage.match_seconds is not None:
        distinct = {made.path: made.seconds for made in context.rounds}  # rounds on one teacher rollout share it
        seconds = sum(distinct.values())
        return max(1, round(seconds * _speed(context, trained) / (mean * size)))
    if stage.training.steps is not None:
        return stage.training.steps
    return max(1, round(len(items) * (stage.training.epochs or 1.0) / size))


def _speed(context: StageContext, trained: list[Artifact]) -> float:
    """Tokens a second of earlier training, start-up excluded: that of the weights that go on, if it was measured.

    A control that is matched in seconds pays its own start-up and validation on top, never less than its share.
    """
    for made in (context.inputs["model"], *trained):
        if made.facts.get("tokens_per_second"):
            return float(made.facts["tokens_per_second"])
    return sum(int(made.facts["tokens"]) for made in trained) / max(sum(made.seconds for made in trained), 1e-9)


def _mean_length(stage: SftStage, items: list[TrainingItem]) -> float:
    """Mean tokens of a drawn sequence, under the stage's shares of the modes."""
    total, shares = 0.0, 0.0
    for mode, share in stage.modes.items():
        lengths = [item.length for item in items if item.sequence.mode == mode]
        if lengths:
            total += share * sum(lengths) / len(lengths)
            shares += share
    return total / shares


def _validator(stage: SftStage, context: StageContext) -> Any:
    """Mean over the stage's modes of accuracy on the validation examples.

    Raises: DataError, if they have no answers.
    """
    path = context.model_path()
    tokenizer = load_tokenizer(path)
    stop = stop_ids(tokenizer, path)
    examples = list(read_records(context.inputs["data"].path / "examples" / "validation", kind=Example))
    if not any(map(can_grade, examples)):
        raise DataError(
            f"stage {stage.name!r}: `select: best` chooses by accuracy on validation, but none of the {len(examples)} "
            "validation examples has an answer. Set `select: last`, or give the source some problems with answers."
        )
    jobs = [(example, mode, 0) for mode in MODES if mode in stage.modes for example in examples]

    def validate(model: PreTrainedModel) -> float:
        respondent = Respondent(
            engine=TransformersEngine(model, execution=context.execution, vocabulary=vocabulary_size(tokenizer)),
            tokenizer=tokenizer,
            stop=stop,
            thinking=context.recipe.thinking,
        )
        answers = respondent.answer(jobs, sampling=stage.sampling, source="student", seed=("select",), too_long="wrong")
        return sum(item.grade or 0.0 for item in answers) / len(answers)

    return validate


def _card(stage: SftStage, context: StageContext, steps: int) -> str:
    what = f"the completions of `{stage.sequences}`" if stage.sequences else "labelled examples"
    shares = ", ".join(f"{mode} {share:g}" for mode, share in stage.modes.items())
    return (
        f"# {context.recipe.name}: {stage.name}\n\nSupervised fine-tuning by eyas from `{stage.model}` on {what} "
        f"({shares}), {steps} steps of {stage.training.batch_size} sequences at learning rate "
        f"{stage.training.learning_rate:g}, seed {context.recipe.seed}.\n"
    )
