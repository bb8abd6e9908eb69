"""The token loop on the host: a session's logits become tokens, as a runtime.

Suffixes: T tokens, V vocabulary, K the most likely ones.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from eyas.errors import DataError, ModelError
from eyas.runtimes.base import Timings, TopLogprobs
from eyas.runtimes.session import Logits, Session


class HostLoop:
    """Runtime over any session: an ONNX one here, an Ascend one on the device."""

    def __init__(self, session: Session, *, name: str, version: str, load_s: float) -> None:
        self.name, self.version = name, version
        self.context_length = session.context_length
        self.session = session
        self._timings = Timings(load_s=load_s, prefill_s=0.0, decode_s=(), prompt_tokens=0, completion_tokens=0)
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
        """As `Runtime.generate`. The last token may be one that no longer fits the context.

        Raises: DataError, as there; ModelError, if logits are not finite.
        """
        started = time.perf_counter()
        generator = np.random.Generator(np.random.Philox(seed)) if temperature > 0 else None
        self.session.reset()
        self._gaps_s = []
        self._timings = Timings(self._timings.load_s, 0.0, (), len(prompt_ids), 0)
        limit = min(max_tokens, self.context_length - len(prompt_ids) + 1)
        logits_V = self._last_logits(prompt_ids)
        for made in range(1, limit + 1):
            token = next_token(logits_V, temperature=temperature, generator=generator)
            self._gaps_s.append(time.perf_counter() - started)
            yield token
            if token in stop_ids or made == limit:
                return
            started = time.perf_counter()
            logits_V = self.session.decode(token)

    def _last_logits(self, ids: Sequence[int]) -> Logits:
        """Logits after all of the prompt; chunk by chunk, so that only one chunk's are ever held."""
        if not ids or len(ids) > self.context_length:
            raise DataError(
                f"the prompt has {len(ids)} tokens, expected 1 to {self.context_length}, the context of this file. "
                "Shorten it, or export with a longer context."
            )
        logits_TV = self.session.prefill(ids[: self.session.chunk])
        for begin in range(self.session.chunk, len(ids), self.session.chunk):
            logits_TV = self.session.prefill(ids[begin : begin + self.session.chunk])
        row: Logits = logits_TV[-1]
        return row

    def top_logprobs(self, ids: Sequence[int], *, k: int) -> TopLogprobs:
        """As `Runtime.top_logprobs`, computed in float32."""
        if not 2 <= len(ids) <= self.context_length + 1:
            raise DataError(f"{len(ids)} tokens, expected 2 to {self.context_length + 1}: context and the token after.")
        self.session.reset()
        read = ids[:-1]
        parts = [
            top_of(self.session.prefill(read[begin : begin + self.session.chunk]), k=k)
            for begin in range(0, len(read), self.session.chunk)
        ]
        return TopLogprobs(
            ids_TK=np.concatenate([part.ids_TK for part in parts]),
            logprobs_TK=np.concatenate([part.logprobs_TK for part in parts]),
        )

    def timings(self) -> Timings:
        """As `Runtime.timings`."""
        first, *gaps = self._gaps_s or [0.0]
        return Timings(
            load_s=self._timings.load_s,
            prefill_s=first,
            decode_s=tuple(gaps),
            prompt_tokens=self._timings.prompt_tokens,
            completion_tokens=len(self._gaps_s),
        )

    def close(self) -> None:
        """Give the session's memory back."""
        self.session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: Any) -> None:
        self.close()


def next_token(logits_V: Logits, *, temperature: float, generator: np.random.Generator | None) -> int:
    """The likeliest id, or with a generator one drawn from softmax(logits / temperature) by inverse CDF in float64.

    Raises: ModelError, if the likeliest logit is not finite.
    """
    best = int(logits_V.argmax())  # a NaN counts as the largest
    if not np.isfinite(logits_V[best]):
        raise ModelError(
            f"the model's logits are not finite (token {best} has {logits_V[best]}). In float16 that is an overflow: "
            "export the model in float32."
        )
    if generator is None:
        return best
    scaled_V = (logits_V.astype(np.float64) - float(logits_V[best])) / temperature
    mass_V = np.exp(scaled_V).cumsum()
    return int(np.searchsorted(mass_V, generator.random() * mass_V[-1], side="right"))


def top_of(logits_TV: Logits, *, k: int) -> TopLogprobs:
    """The k largest log-probabilities of every row, largest first."""
    wide_TV: NDArray[np.float32] = logits_TV.astype(np.float32)
    largest_T1 = wide_TV.max(axis=-1, keepdims=True)
    total_T1 = np.log(np.exp(wide_TV - largest_T1).sum(axis=-1, keepdims=True, dtype=np.float64)) + largest_T1
    some_TK = np.argpartition(wide_TV, -k, axis=-1)[:, -k:] if k < wide_TV.shape[-1] else wide_TV.argsort(axis=-1)
    order_TK = np.argsort(-np.take_along_axis(wide_TV, some_TK, axis=-1), axis=-1, kind="stable")
    ids_TK = np.take_along_axis(some_TK, order_TK, axis=-1)
    logprobs_TK = np.take_along_axis(wide_TV, ids_TK, axis=-1) - total_T1
    return TopLogprobs(ids_TK=ids_TK.astype(np.int32), logprobs_TK=logprobs_TK.astype(np.float32))
