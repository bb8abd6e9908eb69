"""llama.cpp as a runtime: one GGUF file, one sequence at a time, this process's threads."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from ctypes import POINTER, c_float, c_int8, c_int32, cast
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from eyas.errors import DataError, ModelError
from eyas.runtimes.base import Timings, TopLogprobs
from eyas.runtimes.host_loop import next_token, top_of
from eyas.runtimes.llama_c import PACKAGE, Batch, library
from eyas.storage.gguf import GGUFHead, read_gguf_head
from eyas.storage.hardware import core_count

BATCH = 512
"""Tokens that llama.cpp computes at once while it reads a prompt: llama-bench's default."""
SCORED = 64
"""Positions whose full logits are held at once; 64 of a vocabulary of 150,000 are 38 MB."""


class LlamaCpp:
    """A GGUF file in llama.cpp, with the Runtime protocol, and its tokenizer.

    The KV cache is llama.cpp's default, F16. Nothing is kept from one call to the next: each reads its whole prompt.

    Raises: ModelError, if the file is damaged, or of no decoder that llama.cpp can run; DataError, for a context
    that the model was not trained for; MissingExtra, without `xllamacpp` and `gguf`.
    """

    name = PACKAGE

    def __init__(self, path: Path, *, context_length: int | None = None, threads: int | None = None) -> None:
        """The whole training context is reserved unless `context_length` is less; all cores unless `threads`."""
        self.head: GGUFHead = read_gguf_head(path)
        self.path, self._library = path, library()
        self.version, self._call = self._library.version, self._library.call
        self._context: int | None = None
        self._moments_s: list[float] = []
        self._prompt_tokens = 0
        self._arrays: dict[tuple[int, int], NDArray[np.float32]] = {}
        self.inside_s = 0.0
        """Seconds of the last `generate` within llama.cpp: its timings less sampling and what Python costs."""
        started = time.perf_counter()
        self._model = self._opened()
        trained = int(self._call.llama_model_n_ctx_train(self._model))
        if context_length is not None and not 0 < context_length <= trained:
            self.close()
            raise DataError(f"{path}: a context of {context_length} tokens, the model was trained for {trained}.")
        self.context_length = context_length or trained
        self._vocabulary = self._call.llama_model_get_vocab(self._model)
        self.vocabulary_size = int(self._call.llama_vocab_n_tokens(self._vocabulary))
        self._context = self._new_context()
        self.threads = threads or core_count()
        self._call.llama_set_n_threads(self._context, self.threads, self.threads)
        self._load_s = time.perf_counter() - started

    def generate(
        self,
        prompt_ids: Sequence[int],
        *,
        max_tokens: int,
        stop_ids: Collection[int],
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Iterator[int]:
        """As Runtime.generate."""
        ids = self._checked(prompt_ids, least=1, most=self.context_length)
        stream = np.random.Generator(np.random.Philox(seed)) if temperature > 0 else None
        self.inside_s, self._moments_s, self._prompt_tokens = 0.0, [], len(ids)
        following = _batch(np.zeros(1, np.int32))
        room = min(max_tokens, self.context_length - len(ids) + 1)  # the last token needs no place
        token, started = 0, time.perf_counter()
        for taken in range(room):
            if taken:
                following.token[0] = token
                self._decode(following)
            else:
                self._prefill(ids)
            token = next_token(self._logits(1)[0], temperature=temperature, generator=stream)
            self._moments_s.append(time.perf_counter() - started)
            yield token
            if token in stop_ids:
                return
            started = time.perf_counter()

    def top_logprobs(self, ids: Sequence[int], *, k: int) -> TopLogprobs:
        """As Runtime.top_logprobs; k is cut to the vocabulary."""
        given = self._checked(ids, least=2, most=self.context_length + 1)[:-1]
        self._clear()
        tops = []
        for start in range(0, len(given), SCORED):
            part = given[start : start + SCORED]
            self._decode(_batch(part, every=True))
            tops.append(top_of(self._logits(len(part)), k=k))
        return TopLogprobs(
            ids_TK=np.concatenate([top.ids_TK for top in tops]),
            logprobs_TK=np.concatenate([top.logprobs_TK for top in tops]),
        )

    def timings(self) -> Timings:
        """As Runtime.timings.

        Raises: DataError, before the first token of the first `generate`.
        """
        if not self._moments_s:
            raise DataError(f"{self.path}: nothing was generated yet, so there are no timings. Call `generate` first.")
        first, *rest = self._moments_s
        return Timings(self._load_s, first, tuple(rest), self._prompt_tokens, len(self._moments_s))

    def tokenize(self, text: str) -> list[int]:
        """Ids of a text as it stands by the file's own tokenizer: special tokens parsed, nothing added."""
        data = text.encode()
        room = (c_int32 * (len(data) + 8))()
        count = self._call.llama_tokenize(self._vocabulary, data, len(data), room, len(room), False, True)
        if count < 0:
            raise ModelError(f"{self.path}: its tokenizer gave more tokens than bytes for {text[:40]!r}.")
        return list(room[:count])

    def ends(self, token: int) -> bool:
        """Whether llama.cpp stops a generation at this token by itself."""
        return bool(self._call.llama_vocab_is_eog(self._vocabulary, token))

    def close(self) -> None:
        """Free weights and cache; calling it twice is harmless."""
        if self._context is not None:
            self._call.llama_free(self._context)
        if self._model is not None:
            self._call.llama_model_free(self._model)
        self._context = self._model = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _opened(self) -> Any:
        self._library.complaints.clear()
        model = self._call.llama_model_load_from_file(str(self.path).encode(), self._call.llama_model_default_params())
        if not model:
            raise ModelError(
                f"{self.path}: llama.cpp ({PACKAGE} {self.version}) cannot load it: {self._library.complaint()}. "
                "Export the model again, or give a file of an architecture that it knows."
            )
        if self._call.llama_model_has_encoder(model) or self._call.llama_model_is_recurrent(model):
            self._call.llama_model_free(model)
            raise ModelError(f"{self.path}: {self.head.architecture} is no decoder with a KV cache, which is needed.")
        return model

    def _new_context(self) -> Any:
        parameters = self._call.llama_context_default_params()
        parameters.words[0] = self.context_length
        parameters.words[1] = parameters.words[2] = min(BATCH, self.context_length)
        context = self._call.llama_init_from_model(self._model, parameters)
        if not context:
            self.close()
            raise ModelError(
                f"{self.path}: no room for a context of {self.context_length} tokens ({self._library.complaint()}). "
                "Give a smaller context_length."
            )
        return context

    def _checked(self, ids: Sequence[int], *, least: int, most: int) -> NDArray[np.int32]:
        if self._context is None:
            raise DataError(f"{self.path}: it was closed. Open it again.")
        if not least <= len(ids) <= most:
            raise DataError(f"{self.path}: {len(ids)} tokens, expected {least} to {most} in {self.context_length}.")
        array = np.array(ids, np.int64)
        if array.min() < 0 or array.max() >= self.vocabulary_size:
            raise DataError(
                f"{self.path}: ids from {array.min()} to {array.max()}, its vocabulary has {self.vocabulary_size}. "
                "Use the ids of its own tokenizer."
            )
        return array.astype(np.int32)

    def _clear(self) -> None:
        self._call.llama_memory_clear(self._call.llama_get_memory(self._context), False)

    def _prefill(self, ids: NDArray[np.int32]) -> None:
        self._clear()
        for start in range(0, len(ids), BATCH):
            self._decode(_batch(ids[start : start + BATCH]))

    def _decode(self, batch: Batch) -> None:
        """Append these tokens to the sequence; logits of the last one, or of all, are then to be had."""
        started = time.perf_counter()
        status = self._call.llama_decode(self._context, batch)
        self._call.llama_synchronize(self._context)
        self.inside_s += time.perf_counter() - started
        if status:
            raise ModelError(f"{self.path}: llama_decode failed with {status}: {self._library.complaint()}.")

    def _logits(self, count: int) -> NDArray[np.float32]:
        """llama.cpp's own memory, overwritten by the next decode: the last token's logits, or those of all `count`."""
        call, context = self._call, self._context
        address = call.llama_get_logits_ith(context, -1) if count == 1 else call.llama_get_logits(context)
        if (address, count) not in self._arrays:  # making one costs as much as a tiny model's layer
            pointer = cast(address, POINTER(c_float))
            self._arrays = {(address, count): np.ctypeslib.as_array(pointer, (count, self.vocabulary_size))}
        return self._arrays[address, count]


def _batch(ids: NDArray[np.int32], *, every: bool = False) -> Batch:
    """Tokens for `llama_decode`, in memory of the batch's own."""
    count = len(ids)
    batch = Batch(n_tokens=count, token=(c_int32 * count)(*ids.tolist()))
    if every:
        batch.logits = (c_int8 * count)(*[1] * count)
    return batch
