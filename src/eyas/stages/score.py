"""Score: the teacher's view of sequences made before, each distinct one once."""

from __future__ import annotations

from typing import Any

from eyas.engines.likelihood import completion_nll
from eyas.engines.transformers import TransformersEngine
from eyas.recipe import ScoreStage
from eyas.records import SequenceRecord
from eyas.storage.context import StageContext
from eyas.storage.models import device_of, load_model
from eyas.storage.nll import DIRECTORY, write_nll
from eyas.storage.scores import column_bytes, read_scores, write_scores
from eyas.storage.shards import read_records, shard_path
from eyas.storage.statistics import score_statistics
from eyas.storage.tokenization import load_tokenizer, vocabulary_size

SHARD = 2048
"""Distinct sequences per shard, a closed unit of work."""


def run(stage: ScoreStage, context: StageContext) -> dict[str, Any]:
    """Write `scores/`, and `nll/` if `unconditional`, keyed by the hash of the token ids; whole shards are kept."""
    sequences: dict[str, SequenceRecord] = {}
    for sequence in read_records(context.inputs["sequences"].path / "sequences", kind=SequenceRecord):
        sequences.setdefault(sequence.token_hash, sequence)
    distinct = [(item.prompt_ids, item.completion_ids) for item in sequences.values()]
    units = [distinct[start : start + SHARD] for start in range(0, len(distinct), SHARD)]
    directory = context.directory / "scores"
    nll = context.directory / DIRECTORY
    kept = [directory, nll] if stage.unconditional else [directory]
    missing = [index for index in range(len(units)) if any(shard_path(path, index) is None for path in kept)]
    context.progress.start(len(distinct), unit="sequences", done=len(distinct) - sum(len(units[i]) for i in missing))
    if missing:
        model = load_model(context.model_path(), dtype=context.model_dtype(), device=device_of(context.execution))
        vocabulary = vocabulary_size(load_tokenizer(context.model_path()))
        engine = TransformersEngine(model, execution=context.execution, vocabulary=vocabulary)
        for index in missing:
            scores = engine.score(units[index], spec=stage, seed=context.recipe.seed)
            if stage.unconditional:
                logprobs = [item.token_logprobs for item in scores]
                found = completion_nll(engine, [completion for _, completion in units[index]], logprobs)
                write_nll(nll, index, {item.token_hash: value for item, value in zip(scores, found, strict=True)})
            write_scores(directory, index, scores, spec=stage)
            context.clock.save()
            context.progress.advance(len(units[index]))
    return score_statistics(
        read_scores(directory),
        column_bytes=column_bytes(directory),
        target=stage.target,
        tokens=sum(len(prompt) + len(completion) for prompt, completion in distinct),
    ) | {"sequences": len(distinct)}
