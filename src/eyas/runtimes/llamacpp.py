"""llama.cpp as a runtime: one GGUF file, one sequence at a time, this process's threads."""

from __future__ import annotations

import time
from collections.abc import Sequence
from ctypes import POINTER, c_float, c_int8, c_int32, cast, create_string_buffer
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyas.errors import DataError, ModelError
from eyas.runtimes.llama_c import F32, FLASH_ATTENTION, OFF, TYPE_K, TYPE_V, Batch, Library, library
from eyas.runtimes.runtime import Runtime
from eyas.runtimes.session import Logits
from eyas.storage.gguf import GGUFHead, read_gguf_head, require_seal
from eyas.storage.processor import core_count

VECTOR = 32
"""Numbers that llama.cpp multiplies at once in F16. It takes narrower heads one number at a time: the built-in student,
whose heads are 16 wide, then needs three times as long for a token as with an F32 cache."""
F16_BYTES, F32_BYTES = 2, 4
BATCH = 512
"""Tokens that llama.cpp computes at once while it reads a prompt: llama-bench's default."""

PIECE = 64
"""Bytes of most tokens; a longer one is asked for again."""


class LlamaCpp(Runtime):
    """A GGUF file in llama.cpp as a Runtime, with the file's own tokenizer.

    The KV cache is llama.cpp's default, F16; of heads narrower than VECTOR it is F32, without flash
    attention. Nothing is kept from one call to the next: each reads its whole prompt.
    `session.graph_s` are seconds within llama.cpp.

    Raises: ModelError, if the file is damaged, or of no decoder that llama.cpp can run; DataError, for a context
    that the model was not trained for; MissingExtra, without `xllamacpp` and `gguf`.
    """

    def __init__(self, path: Path, *, context_length: int | None = None, threads: int | None = None) -> None:
        """The whole training context is reserved unless `context_length` is less; all cores unless `threads`.

        A file that eyas wrote is read once more to compare its seal, after the load time.
        """
        loaded = library()
        started = time.perf_counter()
        self._file = _LlamaSession(loaded, path, context_length=context_length, threads=threads or core_count())
        self.head, self.vocabulary_size = self._file.head, self._file.vocabulary_size
        took_s = time.perf_counter() - started
        super().__init__(self._file, name=loaded.name, version=loaded.version, load_s=took_s)
        try:
            require_seal(path, self.head)
        except ModelError:
            self.close()
            raise

    def tokenize(self, text: str) -> list[int]:
        """Ids of a text as it stands by the file's own tokenizer: special tokens parsed, nothing added."""
        self._opened()
        return self._file.tokenize(text)

    def piece(self, token: int) -> bytes:
        """What a token adds to a text, by the file's own tokenizer; maybe a part of a character."""
        self._opened()
        return self._file.piece(token)

    def ends(self, token: int) -> bool:
        """Whether llama.cpp stops a generation at this token by itself."""
        self._opened()
        return self._file.ends(token)


def kv_cache_bytes(head: GGUFHead) -> int:
    """Bytes of a number in the KV cache."""
    width = head.head_width
    return F16_BYTES if width is None or width >= VECTOR else F32_BYTES


class _LlamaSession:
    """Session over llama.cpp: one sequence, whose KV cache it holds."""

    def __init__(self, loaded: Library, path: Path, *, context_length: int | None, threads: int) -> None:
        self.head = read_gguf_head(path)
        self.path, self._library, self._call = path, loaded, loaded.call
        self.graph_s = 0.0
        self._count = 0
        self._context: int | None = None
        self._arrays: dict[tuple[int, int], NDArray[np.float32]] = {}
        self._model = self._opened()
        trained = int(self._call.llama_model_n_ctx_train(self._model))
        if context_length is not None and not 0 < context_length <= trained:
            self.close()
            raise DataError(f"{path}: a context of {context_length} tokens, the model was trained for {trained}.")
        self.context_length = context_length or trained
        self._vocabulary = self._call.llama_model_get_vocab(self._model)
        self.vocabulary_size = int(self._call.llama_vocab_n_tokens(self._vocabulary))
        self._context = self._new_context()
        self._call.llama_set_n_threads(self._context, threads, threads)
        self._single = _batch((0,))

    def prefill(self, ids: Sequence[int], *, every: bool) -> Logits:
        self._require(ids)
        parts = []
        for begin in range(0, len(ids), BATCH):
            part = ids[begin : begin + BATCH]
            self._decode(_batch(part, every=every))
            if every:
                parts.append(self._logits(len(part)).copy())
        return np.concatenate(parts) if every else self._logits(1)

    def decode(self, token_id: int) -> Logits:
        self._require((token_id,))
        self._single.token[0] = token_id
        self._decode(self._single)
        row: Logits = self._logits(1)[0]
        return row

    def reset(self) -> None:
        self._call.llama_memory_clear(self._call.llama_get_memory(self._context), False)
        self._count = 0

    def tokenize(self, text: str) -> list[int]:
        data = text.encode("utf-8", errors="surrogateescape")  # bytes that are no UTF-8, as the head keeps them
        room = (c_int32 * (len(data) + 8))()
        count = self._call.llama_tokenize(self._vocabulary, data, len(data), room, len(room), False, True)
        if count < 0:
            raise ModelError(f"{self.path}: its tokenizer gave more tokens than bytes for {text[:40]!r}.")
        return list(room[:count])

    def piece(self, token: int) -> bytes:
        call, room = self._call.llama_token_to_piece, create_string_buffer(PIECE)
        length = call(self._vocabulary, token, room, len(room), 0, True)
        if length < 0:
            room = create_string_buffer(-length)
            length = call(self._vocabulary, token, room, len(room), 0, True)
        return room.raw[:length]

    def ends(self, token: int) -> bool:
        return bool(self._call.llama_vocab_is_eog(self._vocabulary, token))

    def close(self) -> None:
        if self._context is not None:
            self._call.llama_free(self._context)
        if self._model is not None:
            self._call.llama_model_free(self._model)
        self._context = self._model = None

    def _opened(self) -> Any:
        self._library.complaints.clear()
        model = self._call.llama_model_load_from_file(str(self.path).encode(), self._call.llama_model_default_params())
        if not model:
            raise ModelError(
                f"{self.path}: llama.cpp ({self._library.name} {self._library.version}) cannot load it: "
                f"{self._library.complaint()}. "
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
        if kv_cache_bytes(self.head) == F32_BYTES:
            parameters.words[FLASH_ATTENTION] = OFF
            parameters.words[TYPE_K] = parameters.words[TYPE_V] = F32
        context = self._call.llama_init_from_model(self._model, parameters)
        if not context:
            self.close()
            raise ModelError(
                f"{self.path}: no room for a context of {self.context_length} tokens ({self._library.complaint()}). "
                "Give a smaller context_length."
            )
        return context

    def _require(self, ids: Sequence[int]) -> None:
        if not ids or self._count + len(ids) > self.context_length:
            raise DataError(
                f"{self.path}: {len(ids)} tokens after {self._count}, expected at least one and at most "
                f"{self.context_length} in all. Shorten the prompt, or open the file with a longer context."
            )
        if min(ids) < 0 or max(ids) >= self.vocabulary_size:
            raise DataError(
                f"{self.path}: ids from {min(ids)} to {max(ids)}, its vocabulary has {self.vocabulary_size}. "
                "Use the ids of its own tokenizer."
            )

    def _decode(self, batch: Batch) -> None:
        """Append these tokens to the sequence; logits of the last one, or of all, are then to be had."""
        started = time.perf_counter()
        status = self._call.llama_decode(self._context, batch)
        self._call.llama_synchronize(self._context)
        self.graph_s += time.perf_counter() - started
        if status:
            raise ModelError(f"{self.path}: llama_decode failed with {status}: {self._library.complaint()}.")
        self._count += batch.n_tokens

    def _logits(self, count: int) -> NDArray[np.float32]:
        """llama.cpp's own memory, overwritten by the next decode: the last token's logits, or those of all `count`."""
        call, context = self._call, self._context
        address = call.llama_get_logits_ith(context, -1) if count == 1 else call.llama_get_logits(context)
        if (address, count) not in self._arrays:  # making one costs as much as a tiny model's layer
            pointer = cast(address, POINTER(c_float))
            self._arrays = {(address, count): np.ctypeslib.as_array(pointer, (count, self.vocabulary_size))}
        return self._arrays[address, count]


def _batch(ids: Sequence[int], *, every: bool = False) -> Batch:
    """Tokens for `llama_decode`, in memory of the batch's own."""
    count = len(ids)
    batch = Batch(n_tokens=count, token=(c_int32 * count)(*ids))
    if every:
        batch.logits = (c_int8 * count)(*[1] * count)
    return batch
