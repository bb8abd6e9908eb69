"""What makes and scores token sequences in bulk; `transformers` is the embedded one, others fit the same calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from eyas.recipe import SamplingSpec, ScoreSpec
from eyas.records import FinishReason
from eyas.storage.scores import TeacherScores

Ids = list[int]


@dataclass(frozen=True)
class Request:
    """One completion to sample."""

    prompt_ids: Ids
    seed: int
    """Of this request's own random stream; equal seeds give equal completions under equal execution settings."""


@dataclass(frozen=True)
class Sampled:
    """One sampled completion."""

    completion_ids: Ids
    logprobs: list[float]
    """Log-probability (nats) of each id under the distribution it was drawn from; 0 when greedy."""
    finish_reason: FinishReason


class Generator(Protocol):
    """What completes prompts: an engine, or a single exported file."""

    @property
    def context(self) -> int:
        """Tokens that prompt and completion may have together."""

    def generate(self, requests: Sequence[Request], *, sampling: SamplingSpec, stop: tuple[int, ...]) -> list[Sampled]:
        """Completions in the order of the requests; one that reaches the length limit gets no stop id."""


class Engine(Generator, Protocol):
    """See the module."""

    def score(self, sequences: Sequence[tuple[Ids, Ids]], *, spec: ScoreSpec, seed: int = 0) -> list[TeacherScores]:
        """The model's distribution on the completion tokens of (prompt ids, completion ids), in order.

        What is drawn for a random-sampling target depends on `seed` and the sequence's token hash alone.
        """
