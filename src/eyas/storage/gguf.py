"""The head of a GGUF file, read without its weights, and whether all that it announces is there.

llama.cpp ends the whole process on some damaged files, so a file is looked at here before it is handed over.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import hashlib
import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from eyas.errors import MissingExtra, ModelError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
"""Version 1 had 32-bit lengths; llama.cpp reads it no more."""
STRING, ARRAY = 8, 9
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
"""Value type -> how `struct` calls it."""
MAX_DIMENSIONS = 4
"""GGML_MAX_DIMS"""
TOKENS = "tokenizer.ggml.tokens"
SEAL = "eyas.tensors.seal"
"""Bytes of the tensor data and their SHA-256, of files that eyas writes: GGUF has no checksum of its own, and llama.cpp
passes over keys that it does not know. Whoever quantises such a file anew copies the key; the bytes are others then."""
UNSEALED = f"{0:016d} {'0' * 64}"


@dataclass(frozen=True)
class GGUFTensor:
    """A tensor's place in the file; `shape` as GGUF has it, the contiguous side first."""

    name: str
    shape: tuple[int, ...]
    type: str
    """F32, F16, Q8_0, …"""
    offset: int
    """Bytes from the start of the file."""
    bytes: int


@dataclass(frozen=True)
class GGUFHead:
    """Metadata and tensors of a file whose extents were checked."""

    metadata: dict[str, Any]
    """Scalars and strings as they are, arrays as tuples."""
    tensors: tuple[GGUFTensor, ...]
    bytes: int
    """Of the whole file."""

    @property
    def architecture(self) -> str:
        """llama, qwen3, gemma3, …"""
        return str(self.metadata["general.architecture"])

    @property
    def head_width(self) -> int | None:
        """Numbers of one attention head's key; None where the file does not tell."""
        found = self.metadata.get(f"{self.architecture}.attention.key_length")
        hidden = self.metadata.get(f"{self.architecture}.embedding_length")
        heads = self.metadata.get(f"{self.architecture}.attention.head_count")
        if found is None and isinstance(hidden, int) and isinstance(heads, int) and heads > 0:
            found = hidden // heads
        return found if isinstance(found, int) else None

    @property
    def data_offset(self) -> int:
        """Bytes before the first tensor's."""
        return min(tensor.offset for tensor in self.tensors)

    @property
    def parameters(self) -> int:
        """Stored numbers; tied weights count once."""
        return sum(prod(tensor.shape) for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """Bits of all tensors over their numbers, scales included, metadata not."""
        return 8 * sum(tensor.bytes for tensor in self.tensors) / self.parameters

    @property
    def types(self) -> dict[str, int]:
        """Tensor type -> how many tensors have it."""
        names = [tensor.type for tensor in self.tensors]
        return {name: names.count(name) for name in sorted(set(names))}


def read_gguf_head(path: Path) -> GGUFHead:
    """Metadata and tensor table of a GGUF file, checked against the file's size.

    Raises: ModelError, if it is no GGUF, is cut off, or contradicts itself; MissingExtra, without the package `gguf`.
    """
    try:
        size = path.stat().st_size
        if size < len(MAGIC) or not path.is_file():
            raise ModelError(f"{path}: not a GGUF file ({size} bytes). Export the model again.")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(data, path).head()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error}). Give a GGUF file.") from error


def seal_gguf(path: Path) -> None:
    """Replace UNSEALED in a file's metadata by what its tensor data are, in place.

    Raises: ModelError, as `read_gguf_head`, or if UNSEALED is not there.
    """
    head = read_gguf_head(path)
    with path.open("r+b") as file:
        begin = file.read(head.data_offset).find(SEAL.encode() + struct.pack("<IQ", STRING, len(UNSEALED)))
        if begin < 0 or head.metadata.get(SEAL) != UNSEALED:
            raise ModelError(f"{path}: {SEAL} is {head.metadata.get(SEAL)!r}, expected {UNSEALED!r}. Export it again.")
        file.seek(begin + len(SEAL) + struct.calcsize("<IQ"))
        file.write(_sealed(path, head).encode())


def require_seal(path: Path, head: GGUFHead) -> None:
    """Compare the tensor data with the file's seal, where it has one that is of as many bytes. Reads the whole file.

    Raises: ModelError, if they differ.
    """
    seal = head.metadata.get(SEAL)
    if not isinstance(seal, str) or seal.partition(" ")[0] != f"{head.bytes - head.data_offset:016d}":
        return
    if seal != _sealed(path, head):
        raise ModelError(f"{path}: its weights are not what was exported. Copy it or export the model again.")


def _sealed(path: Path, head: GGUFHead) -> str:
    with path.open("rb") as file:
        file.seek(head.data_offset)
        return f"{head.bytes - head.data_offset:016d} {hashlib.file_digest(file, 'sha256').hexdigest()}"


class _Reader:
    """Walks over the bytes once, front to back."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self._data, self._path, self._at, self._size = data, path, 0, len(data)

    def head(self) -> GGUFHead:
        if self._data[:4] != MAGIC:
            raise ModelError(
                f"{self._path}: not a GGUF file (it starts with {self._data[:4]!r}, GGUF files with {MAGIC!r})."
            )
        self._at = 4
        version = self._scalar("<I")
        if version not in VERSIONS:
            raise self._damaged(f"GGUF version {version}, known are {VERSIONS[0]} and {VERSIONS[-1]}")
        tensors, pairs = self._scalar("<Q"), self._scalar("<Q")
        metadata: dict[str, Any] = {}
        for _ in range(pairs):
            key = self._string()
            if key in metadata:
                raise self._damaged(f"{key} is there twice")
            metadata[key] = self._value(self._scalar("<I"))
        table = [self._tensor() for _ in range(tensors)]
        self._require_sound(metadata, [name for name, _, _, _ in table])
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise self._damaged(f"an alignment of {alignment!r}")
        start = -(-self._at // alignment) * alignment
        return GGUFHead(
            metadata, tuple(self._placed(row, start=start, alignment=alignment) for row in table), self._size
        )

    def _require_sound(self, metadata: dict[str, Any], names: list[str]) -> None:
        architecture = metadata.get("general.architecture")
        if not isinstance(architecture, str) or not architecture:
            raise self._damaged("no architecture")
        tokens = metadata.get(TOKENS)
        if not isinstance(tokens, tuple) or not tokens or not isinstance(tokens[0], str):  # arrays hold one type
            raise self._damaged("no vocabulary")
        if len({token.partition("\0")[0] for token in tokens}) != len(tokens):  # llama.cpp ends a text at a zero byte
            raise self._damaged("two tokens with one text")
        for key in ("tokenizer.ggml.token_type", "tokenizer.ggml.scores"):
            entries = metadata.get(key, tokens)
            if not isinstance(entries, tuple) or len(entries) != len(tokens):
                raise self._damaged(f"{key} is no list of {len(tokens)} entries, one a token")
        for key, value in metadata.items():
            names_token = key.startswith("tokenizer.ggml.") and key.endswith("_token_id")
            if names_token and not (isinstance(value, int) and 0 <= value < len(tokens)):
                raise self._damaged(f"{key} is {value}, of {len(tokens)} tokens")
        layers = metadata.get(f"{architecture}.block_count", 0)
        if not isinstance(layers, int):
            raise self._damaged(f"{layers!r} layers")
        if layers and not any(name.startswith(f"blk.{layers - 1}.") for name in names):
            raise self._damaged(f"{layers} layers announced, and none of the last one's tensors")
        if not names or len(set(names)) != len(names):
            raise self._damaged("no tensors" if not names else "two tensors of one name")

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        """Name, shape, type and offset from the start of the tensor data."""
        name, dimensions = self._string(), self._scalar("<I")
        if not 0 < dimensions <= MAX_DIMENSIONS:
            raise self._damaged(f"tensor {name} has {dimensions} dimensions")
        return name, tuple(self._scalar("<Q") for _ in range(dimensions)), self._scalar("<I"), self._scalar("<Q")

    def _placed(self, row: tuple[str, tuple[int, ...], int, int], *, start: int, alignment: int) -> GGUFTensor:
        name, shape, number, offset = row
        sizes = _block_sizes()
        if number not in sizes:
            raise self._damaged(f"tensor {name} has the unknown type {number}")
        kind, block, block_bytes = sizes[number]
        if min(shape) < 1 or shape[0] % block or offset % alignment:
            raise self._damaged(f"tensor {name} of type {kind} has the shape {shape} at offset {offset}")
        length = prod(shape) // block * block_bytes
        if start + offset + length > self._size:
            missing = start + offset + length - self._size
            raise self._damaged(f"tensor {name} ends {missing} bytes after the file, which has {self._size}")
        return GGUFTensor(name=name, shape=shape, type=kind, offset=start + offset, bytes=length)

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self._string()
        if kind == ARRAY:
            return self._array()
        if kind not in SCALARS:
            raise self._damaged(f"a value of the unknown type {kind}")
        return self._scalar(SCALARS[kind])

    def _array(self) -> tuple[Any, ...]:
        kind, count = self._scalar("<I"), self._scalar("<Q")
        if kind == STRING:
            return tuple(self._string() for _ in range(self._fitting(count, 8)))
        if kind not in SCALARS:
            raise self._damaged(f"an array of the type {kind}")
        form = SCALARS[kind][1]
        self._fitting(count, struct.calcsize(f"<{form}"))
        values = struct.unpack_from(f"<{count}{form}", self._data, self._at)
        self._at += struct.calcsize(f"<{count}{form}")
        return values

    def _string(self) -> str:
        length = self._fitting(self._scalar("<Q"), 1)
        self._at += length
        return self._data[self._at - length : self._at].decode("utf-8", errors="surrogateescape")

    def _scalar(self, form: str) -> Any:
        self._fitting(1, struct.calcsize(form))
        (value,) = struct.unpack_from(form, self._data, self._at)
        self._at += struct.calcsize(form)
        return value

    def _fitting(self, count: int, each: int) -> int:
        """The count itself, if that many entries still fit."""
        if count * each > self._size - self._at:
            raise self._damaged(f"its head goes on after its end ({self._size} bytes)")
        return count

    def _damaged(self, found: str) -> ModelError:
        return ModelError(f"{self._path}: a damaged GGUF file: {found}. Copy it anew, or export the model again.")


def _block_sizes() -> dict[int, tuple[str, int, int]]:
    """Type number -> name, numbers a block, bytes a block."""
    try:
        from gguf import GGML_QUANT_SIZES
    except ImportError as error:
        raise MissingExtra("gguf", extra="gguf", purpose="reading a GGUF file") from error
    return {int(kind): (kind.name, block, size) for kind, (block, size) in GGML_QUANT_SIZES.items()}
