"""One exported file run as the device would: a session's logits become tokens on the host, by the clock.

Suffixes: T tokens, V vocabulary, K the most likely ones.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from eyas.errors import DataError, ModelError
from eyas.runtimes.session import Logits, Session

SCORED = 64
"""Positions that `top_logprobs` sorts at once, and takes in at once by default; 64 of a vocabulary of 150,000 are 38 MB
in float32."""


@dataclass(frozen=True)
class Timings:
    """Wall-clock seconds of the last `generate`, without what its caller did between two tokens."""

    load_s: float
    """Opening the file, once: until the library can compute; without imports and hashes."""
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


class Runtime:
    """Runs one exported file over its session: llama.cpp's, ONNX graphs, compiled ones on an Ascend chip.

    A context manager that closes it. One `generate` at a time.
    """

    def __init__(self, session: Session, *, name: str, version: str, load_s: float) -> None:
        """`name` and `version` are those of the library that computes: onnxruntime, xllamacpp, ais_bench."""
        self.name, self.version = name, version
        self.context_length = session.context_length
        """Tokens of prompt and completion together."""
        self.session = session
        self._closed = False
        self._load_s = load_s
        self._prompt_tokens = 0
        self._gaps_s: list[float] = []

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

        Greedy at temperature 0; else the same seed draws the same tokens from the same logits. The last token may be
        one that no longer fits the context.

        Raises: DataError, for an empty prompt or one that does not fit the context; ModelError, for logits that are not
        finite.
        """
        started = time.perf_counter()
        if not 1 <= len(prompt_ids) <= self.context_length:
            raise DataError(
                f"the prompt has {len(prompt_ids)} tokens, expected 1 to {self.context_length}, the context of this "
                "file. Shorten it, or export with a longer context."
            )
        generator = np.random.Generator(np.random.Philox(seed)) if temperature > 0 else None
        self._gaps_s, self._prompt_tokens = [], len(prompt_ids)
        token = 0
        for made in range(min(max_tokens, self.context_length - len(prompt_ids) + 1)):
            session = self._opened()
            if made:
                logits_V = session.decode(token)
            else:
                session.reset()
                logits_V = session.prefill(prompt_ids, every=False)[-1]
            token = next_token(logits_V, temperature=temperature, generator=generator)
            self._gaps_s.append(time.perf_counter() - started)
            yield token
            if token in stop_ids:
                return
            started = time.perf_counter()

    def top_logprobs(self, ids: Sequence[int], *, k: int, at_once: int = SCORED) -> TopLogprobs:
        """The k likeliest tokens after each of ids[:-1], computed in float32; `at_once` of them go in together.

        Raises: DataError, for fewer than two ids, or more than fit the context; ModelError, for logits that are not
        finite.
        """
        if not 2 <= len(ids) <= self.context_length + 1:
            raise DataError(f"{len(ids)} tokens, expected 2 to {self.context_length + 1}: context and the token after.")
        session, read = self._opened(), ids[:-1]
        session.reset()
        parts = []
        for begin in range(0, len(read), at_once):
            logits_TV = session.prefill(read[begin : begin + at_once], every=True)
            parts += [top_of(logits_TV[row : row + SCORED], k=k) for row in range(0, len(logits_TV), SCORED)]
        return TopLogprobs(
            ids_TK=np.concatenate([part.ids_TK for part in parts]),
            logprobs_TK=np.concatenate([part.logprobs_TK for part in parts]),
        )

    def timings(self) -> Timings:
        """Of the last `generate`, so far.

        Raises: DataError, before its first token.
        """
        if not self._gaps_s:
            raise DataError("nothing was generated yet, so there are no timings. Call `generate` first.")
        first, *gaps = self._gaps_s
        return Timings(
            load_s=self._load_s,
            prefill_s=first,
            decode_s=tuple(gaps),
            prompt_tokens=self._prompt_tokens,
            completion_tokens=len(self._gaps_s),
        )

    def close(self) -> None:
        """Give the session's memory back; calling it twice is harmless."""
        if not self._closed:
            self._closed = True
            self.session.close()

    def _opened(self) -> Session:
        if self._closed:
            raise DataError(f"{self.name}: the file was closed. Open it again.")
        return self.session

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def next_token(logits_V: Logits, *, temperature: float, generator: np.random.Generator | None) -> int:
    """The likeliest id, or with a generator one drawn from softmax(logits / temperature) by inverse CDF in float64.

    Raises: ModelError, if the likeliest logit is not finite.
    """
    best = int(logits_V.argmax())
    _require_finite(logits_V[best])
    if generator is None:
        return best
    scaled_V = (logits_V.astype(np.float64) - float(logits_V[best])) / temperature
    mass_V = np.exp(scaled_V).cumsum()
    return int(np.searchsorted(mass_V, generator.random() * mass_V[-1], side="right"))


def top_of(logits_TV: Logits, *, k: int) -> TopLogprobs:
    """The k largest log-probabilities of every row, largest first.

    Raises: ModelError, if the likeliest logit of a row is not finite.
    """
    wide_TV: NDArray[np.float32] = logits_TV.astype(np.float32)
    largest_T1 = wide_TV.max(axis=-1, keepdims=True)
    _require_finite(largest_T1)
    total_T1 = np.log(np.exp(wide_TV - largest_T1).sum(axis=-1, keepdims=True, dtype=np.float64)) + largest_T1
    some_TK = np.argpartition(wide_TV, -k, axis=-1)[:, -k:] if k < wide_TV.shape[-1] else wide_TV.argsort(axis=-1)
    order_TK = np.argsort(-np.take_along_axis(wide_TV, some_TK, axis=-1), axis=-1, kind="stable")
    ids_TK = np.take_along_axis(some_TK, order_TK, axis=-1)
    logprobs_TK = np.take_along_axis(wide_TV, ids_TK, axis=-1) - total_T1
    return TopLogprobs(ids_TK=ids_TK.astype(np.int32), logprobs_TK=logprobs_TK.astype(np.float32))


def _require_finite(largest: np.floating | NDArray[np.floating]) -> None:
    """`largest` of each row: a NaN counts as the largest, to argmax and to max."""
    if not np.isfinite(largest).all():
        raise ModelError(
            "the model's logits are not finite. In float16 that is an overflow: export the model in float32."
        )
