"""The part of llama.cpp's C interface that is used, out of the shared library that `xllamacpp` carries, or your own.

xllamacpp's own interface is llama.cpp's server, whose stream leaves out the ids of tokens that end inside a UTF-8
character, and which tells log-probs of generated tokens only. The C interface beneath it (llama.h) has neither limit
and is what llama-bench measures. Structures that grow between versions are passed as opaque blocks of more than
their size, of which only the first fields are touched; `library` checks that these are where they are expected.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
from collections import deque
from ctypes import POINTER, c_char_p, c_int8, c_int32, c_uint32, c_void_p
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from eyas.errors import MissingExtra, ModelError
from eyas.storage.hashing import sha256_once

PACKAGE = "xllamacpp"
TESTED = "2026.10.11549"
VARIABLE = "EYAS_LLAMA_LIBRARY"
"""An environment variable: the file of a llama.cpp built on this machine, to be used instead of the package's."""
OWN_ADVICE = f"Build llama.cpp as docs/bench.md says, or unset {VARIABLE}, and xllamacpp's is used."
LIBRARY = re.compile(r"\.(so|dylib|dll)\b")
"""In the name of a shared library, which versions may follow."""
DEFAULTS = (512, 2048, 512, 1)
"""n_ctx, n_batch, n_ubatch and n_seq_max as `llama_context_default_params` sets them."""
FLASH_ATTENTION, TYPE_K, TYPE_V = 13, 26, 27
"""Words of the context parameters: flash_attn_type (-1 chooses, 0 is off), types of the cached keys and values."""
ATTENTION_DEFAULTS = (0xFFFFFFFF, 1, 1)
"""Of these three: llama.cpp chooses, F16."""
OFF, F32 = 0, 0
ERROR = 4
"""GGML_LOG_LEVEL_ERROR; 5 continues the line before."""
LOG_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_int, c_char_p, c_void_p)


class Params(ctypes.Structure):
    """`llama_model_params` or `llama_context_params`, both under 200 bytes; passed by value, last."""

    _fields_ = [("words", c_uint32 * 256)]


class Batch(ctypes.Structure):
    """`llama_batch`; positions and sequence are llama.cpp's to count where the pointers are null."""

    _fields_ = [
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", c_void_p),
        ("pos", c_void_p),
        ("n_seq_id", c_void_p),
        ("seq_id", c_void_p),
        ("logits", POINTER(c_int8)),
    ]


PROTOTYPES: dict[str, tuple[object, tuple[object, ...]]] = {
    "llama_backend_init": (None, ()),
    "llama_log_set": (None, (LOG_FUNCTION, c_void_p)),
    "llama_model_default_params": (Params, ()),
    "llama_context_default_params": (Params, ()),
    "llama_model_load_from_file": (c_void_p, (c_char_p, Params)),
    "llama_model_free": (None, (c_void_p,)),
    "llama_model_n_ctx_train": (c_int32, (c_void_p,)),
    "llama_model_get_vocab": (c_void_p, (c_void_p,)),
    "llama_model_has_encoder": (ctypes.c_bool, (c_void_p,)),
    "llama_model_is_recurrent": (ctypes.c_bool, (c_void_p,)),
    "llama_init_from_model": (c_void_p, (c_void_p, Params)),
    "llama_free": (None, (c_void_p,)),
    "llama_set_n_threads": (None, (c_void_p, c_int32, c_int32)),
    "llama_get_memory": (c_void_p, (c_void_p,)),
    "llama_memory_clear": (None, (c_void_p, ctypes.c_bool)),
    "llama_decode": (c_int32, (c_void_p, Batch)),
    "llama_synchronize": (None, (c_void_p,)),
    "llama_get_logits": (c_void_p, (c_void_p,)),
    "llama_get_logits_ith": (c_void_p, (c_void_p, c_int32)),
    "llama_vocab_n_tokens": (c_int32, (c_void_p,)),
    "llama_vocab_is_eog": (ctypes.c_bool, (c_void_p, c_int32)),
    "llama_token_to_piece": (c_int32, (c_void_p, c_int32, c_char_p, c_int32, c_int32, ctypes.c_bool)),
    "llama_tokenize": (
        c_int32,
        (c_void_p, c_char_p, c_int32, POINTER(c_int32), c_int32, ctypes.c_bool, ctypes.c_bool),
    ),
}
"""Function -> what it returns, what it takes (include/llama.h)."""


@dataclass(frozen=True)
class Library:
    """The loaded library, what it is called and of which version, and the last lines it logged as errors."""

    call: ctypes.CDLL
    name: str
    version: str
    complaints: deque[str]

    def complaint(self) -> str:
        """What llama.cpp said last, to explain a null pointer."""
        return " ".join("".join(self.complaints).split()) or "llama.cpp gave no reason"


def own_library() -> Path | None:
    """The file that EYAS_LLAMA_LIBRARY names; None, where it names none."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else None


def own_identity() -> str | None:
    """Hex SHA-256 of that file and of ggml's libraries beside it, which compute for it; None, where none is named.

    Raises: ModelError, if it cannot be read.
    """
    own = own_library()
    if own is None:
        return None
    whole = own.resolve()
    beside = (file.resolve() for file in whole.parent.glob("*ggml*") if LIBRARY.search(file.name))
    try:
        sums = [sha256_once(file) for file in sorted({whole, *beside})]
    except OSError as error:
        raise ModelError(f"{VARIABLE}={own}: cannot be read ({error.strerror}). {OWN_ADVICE}") from error
    return hashlib.sha256("".join(sums).encode()).hexdigest()


@cache
def library() -> Library:
    """Load llama.cpp, once a process; it logs nothing to the terminal from here on.

    Raises: MissingExtra, without the package; ModelError, if its llama.cpp is another than the one expected, or the
    one that EYAS_LLAMA_LIBRARY names cannot be loaded.
    """
    own = own_library()
    call, name, version, advice = _of_environment(own) if own else _of_package()
    for wanted, (returns, takes) in PROTOTYPES.items():
        function = getattr(call, wanted, None)
        if function is None:
            raise ModelError(f"{name} {version} does not export {wanted} on this platform. {advice}")
        function.restype, function.argtypes = returns, takes
    words = call.llama_context_default_params().words
    fields = (*words[: len(DEFAULTS)], words[FLASH_ATTENTION], words[TYPE_K], words[TYPE_V])
    if fields != DEFAULTS + ATTENTION_DEFAULTS:
        raise ModelError(
            f"{name} {version}: context parameters {fields}, expected {DEFAULTS + ATTENTION_DEFAULTS}. {advice}"
        )
    complaints: deque[str] = deque(maxlen=6)
    call.llama_log_set(_keep_complaints(complaints), None)
    if own:  # backends of files of their own, as in llama.cpp's releases
        call.ggml_backend_load_all_from_path(str(own.resolve().parent).encode())
    call.llama_backend_init()
    return Library(call, name, version, complaints)


def _of_package() -> tuple[ctypes.CDLL, str, str, str]:
    """The library that xllamacpp carries, its name and version, and advice where it is not what is expected."""
    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError as error:
        raise MissingExtra(PACKAGE, extra="gguf", purpose="running GGUF files") from error
    found = [Path(str(file.locate())) for file in package.files or () if file.suffix in (".so", ".pyd", ".dylib")]
    advice = f"Install the one that was tested: `pip install {PACKAGE}=={TESTED}`."
    if len(found) != 1:
        raise ModelError(f"{PACKAGE} {package.version} has {len(found)} shared libraries, expected one. {advice}")
    return ctypes.CDLL(str(found[0])), PACKAGE, package.version, advice


def _of_environment(path: Path) -> tuple[ctypes.CDLL, str, str, str]:
    """The same of the user's own; its version is its ggml's, the only one that the library tells."""
    try:
        call = ctypes.CDLL(str(path.resolve()))
    except OSError as error:
        raise ModelError(f"{VARIABLE}={path}: no library that can be loaded ({error}). {OWN_ADVICE}") from error
    for tells in ("ggml_version", "ggml_commit", "ggml_backend_load_all_from_path"):
        if not hasattr(call, tells):
            raise ModelError(
                f"{VARIABLE}={path}: it has no {tells}, so it is no llama.cpp, or an old one. {OWN_ADVICE}"
            )
    call.ggml_version.restype = call.ggml_commit.restype = c_char_p
    call.ggml_backend_load_all_from_path.restype = None
    call.ggml_backend_load_all_from_path.argtypes = (c_char_p,)
    return call, path.name, f"(ggml {call.ggml_version().decode()}, {call.ggml_commit().decode()})", OWN_ADVICE


_CALLBACKS: list[object] = []
"""Functions that C holds; Python must not collect them."""


def _keep_complaints(complaints: deque[str]) -> object:
    continued = [False]

    def log(level: int, text: bytes | None, data: int | None) -> None:
        del data
        continued[0] = level == ERROR or (level > ERROR and continued[0])
        if continued[0]:
            complaints.append((text or b"").decode("utf-8", errors="replace"))

    _CALLBACKS.append(LOG_FUNCTION(log))
    return _CALLBACKS[-1]
