"""Evaluate: one model's accuracy on held-out examples, its divergence from the teacher, what it forgot."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from eyas.engines.respondent import Job, Respondent, load_respondent
from eyas.recipe import EvaluateStage
from eyas.records import MODES, Example, Mode, SequenceRecord
from eyas.stats import Share, share_of
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
    context.progress.start((len(test) + len(off_task)) * len(stage.modes), unit="answers")
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
        "accuracy": {mode: _accuracy(part) for mode, part in _by_mode(predictions).items()},
        "by_level": _by_level(predictions, test),
        "off_task": {
            "accuracy": {mode: _accuracy(part) for mode, part in _by_mode(forgotten).items()},
            "nll": _nll(respondent, off_task, stage.modes),
        },
        "divergence": _divergence(stage, context, respondent),
        "bulk": {"tokens_per_second": speed, "batch_size": context.execution.generation_batch_size},
    }


def _answers(
    stage: EvaluateStage, context: StageContext, respondent: Respondent, examples: Sequence[Example], name: str
) -> tuple[list[SequenceRecord], float | None]:
    """The graded answers, and completion tokens a second of those made now; None if all were from an earlier attempt.

    Bulk throughput on this machine, not the latency that a device would show.
    """
    jobs: list[Job] = [(example, mode, 0) for mode in stage.modes for example in examples]
    directory = context.directory / name
    seconds, tokens = 0.0, 0
    for index, start in enumerate(range(0, len(jobs), SHARD)):
        unit = jobs[start : start + SHARD]
        if shard_path(directory, index) is None:
            seed = (context.recipe.seed, "evaluate", name)
            started = time.monotonic()
            records = respondent.answer(unit, sampling=stage.sampling, source="student", seed=seed)
            seconds += time.monotonic() - started
            tokens += sum(len(record.completion_ids) for record in records)
            write_shard(directory, index, records, kind=SequenceRecord)
            context.clock.save()
        context.progress.advance(len(unit))
    return list(read_records(directory, kind=SequenceRecord)), tokens / seconds if tokens else None


def _by_mode(sequences: Sequence[SequenceRecord]) -> dict[Mode, list[SequenceRecord]]:
    parts = {mode: [item for item in sequences if item.mode == mode] for mode in MODES}
    return {mode: part for mode, part in parts.items() if part}


def _share(sequences: Sequence[SequenceRecord]) -> Share:
    return share_of([item.grade is not None and item.grade >= 1.0 for item in sequences])


def _accuracy(sequences: Sequence[SequenceRecord]) -> dict[str, float]:
    lengths = [len(item.completion_ids) for item in sequences]
    return {
        **_share(sequences).as_dict(),
        "mean_tokens": sum(lengths) / len(lengths),
        "truncated": sum(item.finish_reason == "length" for item in sequences) / len(sequences),
    }


def _by_level(sequences: Sequence[SequenceRecord], examples: Sequence[Example]) -> dict[str, dict[str, Any]]:
    levels = {example.id: example.level for example in examples}
    found: dict[str, dict[str, list[SequenceRecord]]] = defaultdict(lambda: defaultdict(list))
    for item in sequences:
        if levels[item.example_id]:
            found[item.mode][levels[item.example_id]].append(item)
    return {
        mode: {level: _share(part).as_dict() for level, part in sorted(parts.items())} for mode, parts in found.items()
    }


def _nll(respondent: Respondent, examples: Sequence[Example], modes: Sequence[Mode]) -> float | None:
    """Nats per completion token of the off-task references; None where there are none."""
    labels = [
        label_sequence(respondent.tokenizer, item, mode, thinking=respondent.thinking, stop_id=respondent.stop[0])
        for item in examples
        for mode in modes
    ]
    known = [(label.prompt_ids, label.completion_ids) for label in labels if label is not None]
    if not known:
        return None
    total, count = respondent.engine.nll(known)
    return total / count


def _divergence(stage: EvaluateStage, context: StageContext, respondent: Respondent) -> dict[str, dict[str, float]]:
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
