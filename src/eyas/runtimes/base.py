"""What every runtime does: stream tokens of one exported file, say its likeliest next tokens, and what that took.

Suffixes: T tokens, K the most likely ones.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Timings:
    """Wall-clock seconds of the last `generate`, without what its caller did between two tokens."""

    load_s: float
    """Opening the file, once."""
    prefill_s: float
    """From the call to the first token."""
    decode_s: tuple[float, ...]
    """One gap for each generated token after the first."""
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class TopLogprobs:
    """For every position but the last, the most likely next tokens, likeliest first."""

    ids_TK: NDArray[np.int32]
    logprobs_TK: NDArray[np.float32]
    """Natural-log probabilities at temperature 1."""


class Runtime(Protocol):
    """Runs one exported file; a context manager that closes it. One `generate` at a time."""

    name: str
    """The library that computes: onnxruntime, xllamacpp, ais_bench."""
    version: str
    """That library's."""
    context_length: int
    """Tokens of prompt and completion together."""

    def generate(
        self,
        prompt_ids: Sequence[int],
        *,
        max_tokens: int,
        stop_ids: Collection[int],
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Iterator[int]:
        """Ids as they are made, a stop id included; ends after it, after max_tokens or at the end of the context.

        Greedy at temperature 0; else the same seed draws the same tokens from the same logits.

        Raises: DataError, for an empty prompt or one that does not fit the context.
        """

    def top_logprobs(self, ids: Sequence[int], *, k: int) -> TopLogprobs:
        """The k likeliest tokens after each of ids[:-1].

        Raises: DataError, for fewer than two ids, or more than fit the context.
        """

    def timings(self) -> Timings:
        """Of the last `generate`, so far."""

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Any: ...
