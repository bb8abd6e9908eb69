"""What flows between stages: examples and sequences. Plain data, no torch, no files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Literal

Mode = Literal["reasoning", "fast"]
MODES: tuple[Mode, ...] = ("reasoning", "fast")
Source = Literal["label", "teacher", "student"]
FinishReason = Literal["stop", "length"]
Split = Literal["labelled", "unlabelled", "validation", "test", "off_task"]


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt with, where known, its reference reasoning, reference answer and grader.

    `key` is the canonical problem text: two wordings of one problem share it, and the split and the
    identity of the example follow from its hash alone (never from a seed or a position).
    """

    key: str
    prompt: tuple[tuple[str, str], ...]
    """Chat messages as (role, content); the last one is the user's."""
    answer: str | None = None
    reasoning: str | None = None
    grader: str = "numeric"
    """Name of the grader that checks an answer; see `eyas.grading`."""
    level: str = ""
    """Difficulty class given by the source (for the breakdown in the report), empty if none."""
    origin: str = ""
    """Which part of a mixture or which reasoning-gym task it came from, for the same; empty for other sources."""
    metadata: str = ""
    """JSON that the grader needs beside the answer (reasoning-gym's own entry, for instance)."""

    @property
    def id(self) -> str:
        """16 hex digits of SHA-256 over `key`."""
        return hashlib.sha256(self.key.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class SequenceRecord:
    """One prompt and completion as token ids; never re-tokenised after it was sampled."""

    example_id: str
    sample: int
    mode: Mode
    source: Source
    prompt_ids: list[int]
    completion_ids: list[int]
    """Ends with a stop id if `finish_reason` is "stop"; a sequence cut at its length limit has none."""
    finish_reason: FinishReason
    sampling_logprobs: list[float] = field(default_factory=list)
    """Log-probability (nats) of each completion id under the sampling distribution; empty if not sampled."""
    text: str = ""
    answer: str | None = None
    """Final answer extracted from the completion, None where there is none."""
    grade: float | None = None
    """1.0 correct, 0.0 wrong, None where nothing could be graded."""

    @property
    def token_hash(self) -> str:
        """Key of this sequence's teacher scores: 32 hex digits over its token ids, never its position."""
        return token_hash(self.prompt_ids, self.completion_ids)


def token_hash(prompt_ids: list[int], completion_ids: list[int]) -> str:
    """32 hex digits of SHA-256 over the ids, with the border between prompt and completion."""
    text = ",".join(map(str, prompt_ids)) + "|" + ",".join(map(str, completion_ids))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def seed_for(*parts: object) -> int:
    """A 63-bit seed from a hash of (seed, split, example id, sample, …); never seed + index."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1
