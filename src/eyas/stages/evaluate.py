"""Evaluate: one model's accuracy on held-out examples, its divergence from the teacher, what it forgot."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from eyas import grading
from eyas.accuracy import accuracy, by_mode, measured, too_long
from eyas.engines.respondent import Job, Respondent, load_respondent
from eyas.engines.transformers import TransformersEngine
from eyas.recipe import EvaluateStage
from eyas.records import Example, Mode, SequenceRecord
from eyas.storage.asked import what_was_asked
from eyas.storage.batches import TrainingItem
from eyas.storage.context import StageContext
from eyas.storage.models import parameter_count, weight_bytes
from eyas.storage.scores import read_scores
from eyas.storage.shards import read_records, shard_path, write_shard
from eyas.storage.tokenization import label_sequence

SHARD = 1024
"""Predictions per shard, a closed unit of work."""


def run(stage: EvaluateStage, context: StageContext) -> dict[str, Any]:
    """Write `predictions/` and `off_task/`; shards that exist and are whole are kept."""
    (role,) = stage.models
    path = context.model_path(f"model:{role}")
    root = context.inputs["data"].path / "examples"
    test = list(read_records(root / "test", kind=Example))
    off_task = list(read_records(root / "off_task", kind=Example))
    context.progress.start((len(test) + len(off_task)) * len(stage.modes) * stage.samples_per_prompt, unit="answers")
    respondent = load_respondent(
        path,
        dtype=context.model_dtype(f"model:{role}"),
        thinking=context.recipe.thinking,
        execution=context.execution,
    )
    predictions, speed = _answers(stage, context, respondent, test, "predictions")
    forgotten, _ = _answers(stage, context, respondent, off_task, "off_task")
    return {
        "role": role,
        "parameters": parameter_count(path),
        "bytes": weight_bytes(path),
        "settings": _settings(stage, context) | what_was_asked(test, predictions, tokenizer=respondent.tokenizer),
        **measured(predictions, test, ks=stage.pass_at),
        "too_long": too_long([*predictions, *forgotten]),
        "off_task": {
            "accuracy": {mode: accuracy(part) for mode, part in by_mode(forgotten).items()},
            "nll": _nll(respondent, off_task, stage.modes),
        },
        "divergence": _divergence(stage, context, respondent),
        "bulk": {"tokens_per_second": speed, "batch_size": context.execution.generation_batch_size},
    }


def _answers(
    stage: EvaluateStage,
    context: StageContext,
    respondent: Respondent[TransformersEngine],
    examples: Sequence[Example],
    name: str,
) -> tuple[list[SequenceRecord], float | None]:
    """The graded answers, and completion tokens a second of those made now; None if all were from an earlier attempt.

    Bulk throughput on this machine, not the latency that a device would show.
    """
    jobs: list[Job] = [
        (example, mode, sample)
        for mode in stage.modes
        for example in examples
        for sample in range(stage.samples_per_prompt)
    ]
    directory = context.directory / name
    seconds, tokens = 0.0, 0
    for index, start in enumerate(range(0, len(jobs), SHARD)):
        unit = jobs[start : start + SHARD]
        if shard_path(directory, index) is None:
            seed = (context.recipe.seed, "evaluate", name)
            started = time.monotonic()
            records = respondent.answer(unit, sampling=stage.sampling, source="student", seed=seed, too_long="wrong")
            seconds += time.monotonic() - started
            tokens += sum(len(record.completion_ids) for record in records)
            write_shard(directory, index, records, kind=SequenceRecord)
            context.clock.save()
        context.progress.advance(len(unit))
    return list(read_records(directory, kind=SequenceRecord)), tokens / seconds if tokens else None


def _settings(stage: EvaluateStage, context: StageContext) -> dict[str, Any]:
    """What the numbers hang on, as far as the recipe says it."""
    return {
        "grading_version": grading.VERSION,
        "thinking": context.recipe.thinking.model_dump(),
        "sampling": stage.sampling.model_dump(),
        "samples_per_prompt": stage.samples_per_prompt,
    }


def _nll(
    respondent: Respondent[TransformersEngine], examples: Sequence[Example], modes: Sequence[Mode]
) -> float | None:
    """Nats per completion token of the off-task references that fit into the context; None where there are none."""
    labels = [
        label_sequence(respondent.tokenizer, item, mode, thinking=respondent.thinking, stop_id=respondent.stop[0])
        for item in examples
        for mode in modes
    ]
    known = [(label.prompt_ids, label.completion_ids) for label in labels if label is not None]
    fitting = [item for item in known if sum(map(len, item)) <= respondent.engine.context]
    if not fitting:
        return None
    total, count = respondent.engine.nll(fitting)
    return total / count


def _divergence(
    stage: EvaluateStage, context: StageContext, respondent: Respondent[TransformersEngine]
) -> dict[str, dict[str, float]]:
    """KL(teacher || model) per completion token on the fixed sequences, by whose prefixes they are."""
    found: dict[str, dict[str, float]] = {}
    for prefix in stage.divergence_scores:
        scores = read_scores(context.inputs[f"scores:{prefix}"].path / "scores")
        by_hash = {item.token_hash: item for item in scores}
        sequences = read_records(context.inputs[f"sequences:{prefix}"].path / "sequences", kind=SequenceRecord)
        items = [TrainingItem(sequence=item, scores=by_hash[item.token_hash]) for item in sequences]
        total, count = respondent.engine.divergence(items)
        found[prefix] = {"value": total / count, "tokens": count}
    return found
