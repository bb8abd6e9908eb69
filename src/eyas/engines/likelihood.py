"""How likely a model finds completions with and without their prompt, for the delta-IFD window."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from eyas.engines.base import Engine, Ids
from eyas.engines.transformers import TransformersEngine
from eyas.recipe import ScoreSpec
from eyas.records import SequenceRecord
from eyas.selection import Nll, later_nll
from eyas.stats import Floats
from eyas.storage.context import StageContext
from eyas.storage.models import device_of, load_model
from eyas.storage.nll import DIRECTORY, read_nll, write_nll
from eyas.storage.shards import shard_path
from eyas.storage.tokenization import load_tokenizer, vocabulary_size

SHARD = 2048
"""Distinct sequences per shard of likelihoods, a closed unit of work."""


def load_engine(path: Path, *, context: StageContext) -> TransformersEngine:
    """The model in a Hugging Face directory, in the type of the stage's input model."""
    model = load_model(path, dtype=context.model_dtype(), device=device_of(context.execution))
    return TransformersEngine(model, execution=context.execution, vocabulary=vocabulary_size(load_tokenizer(path)))


def token_logprobs(engine: Engine, sequences: Sequence[tuple[Ids, Ids]]) -> list[Floats]:
    """The completion tokens' own log-probs (nats) of (prompt ids, completion ids), one float64 [T] each, in order."""
    scores = engine.score(sequences, spec=ScoreSpec(top_k=1))
    return [np.asarray(item.token_logprobs, dtype=np.float64) for item in scores]


def completion_nll(engine: Engine, completions: Sequence[Ids], logprobs: Sequence[ArrayLike]) -> list[Nll]:
    """How likely the engine's model finds completions, given their tokens' log-probs [T] with the prompt before them.

    Costs a prefill of the completions alone, in which their first token is the context.
    """
    longer = [index for index, ids in enumerate(completions) if len(ids) > 1]
    rows = token_logprobs(engine, [(completions[index][:1], completions[index][1:]) for index in longer])
    alone = {index: -float(row.mean()) for index, row in zip(longer, rows, strict=True)}
    return [Nll(later_nll(row), alone.get(index)) for index, row in enumerate(logprobs)]


def student_nll(sequences: Sequence[SequenceRecord], *, context: StageContext) -> dict[str, Nll]:
    """By token hash, how the stage's start weights see the completions; shards that exist and are whole are kept."""
    distinct = {item.token_hash: item for item in sequences}
    keys = list(distinct)
    units = [keys[start : start + SHARD] for start in range(0, len(keys), SHARD)]
    directory = context.directory / DIRECTORY
    missing = [index for index in range(len(units)) if shard_path(directory, index) is None]
    if missing:
        context.progress.start(len(keys), unit="sequences", done=len(keys) - sum(len(units[i]) for i in missing))
        engine = load_engine(context.model_path(), context=context)
        for index in missing:
            unit = [distinct[key] for key in units[index]]
            logprobs = token_logprobs(engine, [(item.prompt_ids, item.completion_ids) for item in unit])
            found = completion_nll(engine, [item.completion_ids for item in unit], logprobs)
            write_nll(directory, index, dict(zip(units[index], found, strict=True)))
            context.clock.save()
            context.progress.advance(len(unit))
    return read_nll(directory)
