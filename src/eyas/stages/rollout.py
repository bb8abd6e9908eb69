"""Rollout: completions as token ids, sampled from a model or rendered from labels, and graded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from eyas.engines.respondent import Job, load_respondent
from eyas.errors import DataError
from eyas.recipe import RolloutStage
from eyas.records import Example, SequenceRecord, Source, Split
from eyas.storage.context import StageContext
from eyas.storage.shards import read_records, shard_path, write_shard
from eyas.storage.statistics import rollout_statistics
from eyas.storage.tokenization import label_sequence, load_tokenizer, stop_ids

SHARD = 2048
"""Sequences per shard: a closed unit of work, so its bits do not depend on what was done before a crash."""

JUDGED = 32
"""Fewer sequences than this, all cut, are no proof that the model never stops: a smoke run goes on."""

Maker = Callable[[Sequence[Job]], list[SequenceRecord]]


def run(stage: RolloutStage, context: StageContext) -> dict[str, Any]:
    """Write `sequences/`; shards that exist and are whole are kept.

    Raises: DataError, if there are no prompts, or if every completion was cut at the length limit.
    """
    examples = _examples(stage, context)
    if not examples:
        raise DataError(f"stage {stage.name!r}: no {stage.prompts} prompts. Raise their number in the prepare stage.")
    jobs = [(item, mode, n) for mode in stage.modes for item in examples for n in range(stage.samples_per_prompt)]
    directory = context.directory / "sequences"
    units = [jobs[start : start + SHARD] for start in range(0, len(jobs), SHARD)]
    missing = [index for index in range(len(units)) if shard_path(directory, index) is None]
    context.progress.start(len(jobs), unit="sequences", done=len(jobs) - sum(len(units[index]) for index in missing))
    if missing:
        maker = _labels(context) if stage.prefix == "label" else _samples(stage, context)
        for index in missing:
            records = maker(units[index])
            write_shard(directory, index, records, kind=SequenceRecord)
            context.clock.save()
            context.progress.advance(len(units[index]))
    facts = rollout_statistics(read_records(directory, kind=SequenceRecord))
    if not facts["sequences"]:
        raise DataError(f"stage {stage.name!r}: no labelled example has what the modes {list(stage.modes)} need.")
    if facts["truncated"] == 1.0 and facts["sequences"] >= JUDGED:
        raise DataError(
            f"stage {stage.name!r}: all {facts['sequences']} completions reached "
            f"{stage.sampling.max_completion_tokens} tokens without a stop token. Raise "
            "sampling.max_completion_tokens, or train the model to stop first (an sft stage)."
        )
    return facts


def _examples(stage: RolloutStage, context: StageContext) -> list[Example]:
    splits: Sequence[Split] = ("labelled", "unlabelled") if stage.prompts == "all" else (stage.prompts,)
    root = context.inputs["data"].path / "examples"
    found = [example for split in splits for example in read_records(root / split, kind=Example)]
    return found[: stage.count]


def _labels(context: StageContext) -> Maker:
    """Label sequences; examples without what a mode needs give none."""
    path = context.model_path()
    tokenizer = load_tokenizer(path)
    stop_id = stop_ids(tokenizer, path)[0]
    thinking = context.recipe.thinking

    def make(unit: Sequence[Job]) -> list[SequenceRecord]:
        made = (label_sequence(tokenizer, item, mode, thinking=thinking, stop_id=stop_id) for item, mode, _ in unit)
        return [sequence for sequence in made if sequence is not None]

    return make


def _samples(stage: RolloutStage, context: StageContext) -> Maker:
    """Sampled and graded sequences. The random streams depend on split and example, not on the model."""
    respondent = load_respondent(
        context.model_path(),
        dtype=context.model_dtype(),
        thinking=context.recipe.thinking,
        execution=context.execution,
    )
    source: Source = "teacher" if stage.prefix == "teacher" else "student"

    def make(unit: Sequence[Job]) -> list[SequenceRecord]:
        return respondent.answer(
            unit, sampling=stage.sampling, source=source, seed=(context.recipe.seed, stage.prompts)
        )

    return make
