"""What a directory of graphs says of itself and its files, read before a library opens them. Needs no torch."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from eyas.errors import ArtifactError, CorruptArtifact

MANIFEST = "manifest.json"
DType = Literal["float32", "float16"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TensorSpec(_Part):
    """An input or output of a graph."""

    name: str
    dtype: Literal["float32", "float16", "int64"]
    shape: tuple[PositiveInt, ...]


class GraphSpec(_Part):
    """A graph that takes `length` tokens at a time; inputs and outputs in the order of the file."""

    name: str
    length: PositiveInt
    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class FileSpec(_Part):
    """What a file must be."""

    bytes: int
    sha256: str


class Described(_Part):
    """A description that vouches for the files beside it."""

    files: dict[str, FileSpec]
    """By their path inside the directory."""


D = TypeVar("D", bound=Described)


class StaticManifest(Described):
    """`manifest.json`: the model's shapes and how its graphs are fed: all that a program on the device must know.

    `notes` says the same in words, for people.
    """

    format: Literal["eyas-static-decoder-1"] = "eyas-static-decoder-1"
    model_type: str
    dtype: DType
    layers: PositiveInt
    kv_heads: PositiveInt
    head_dim: PositiveInt
    vocabulary: PositiveInt
    context_length: PositiveInt
    """Slots of past_kv: prompt and completion together."""
    window: PositiveInt | None
    """Tokens that attn_bias_sliding lets a token look back on, itself included; None: the graphs lack that input."""
    masked: float
    """Addend that hides a key."""
    stop_ids: tuple[int, ...]
    opset: int
    graphs: tuple[GraphSpec, ...] = Field(min_length=1)
    """By length, ascending; the first takes one token."""
    tokenizer: tuple[str, ...]
    """Files of the tokenizer and its chat template."""
    notes: tuple[str, ...]

    @property
    def cache_bytes(self) -> int:
        """Of past_kv: keys and values of every layer and slot."""
        numbers = 2 * self.layers * self.kv_heads * self.head_dim * self.context_length
        return numbers * (2 if self.dtype == "float16" else 4)


def read_manifest(directory: Path, *, verify: bool = True) -> StaticManifest:
    """The manifest of an export of static graphs, its files compared with it as `read_described` does.

    Raises: as `read_described`.
    """
    manifest = read_described(directory / MANIFEST, StaticManifest, verify=verify)
    if manifest.graphs[0].length != 1:
        raise CorruptArtifact(
            f"{directory / MANIFEST}: the first graph takes {manifest.graphs[0].length} tokens, expected 1."
        )
    return manifest


def read_described(path: Path, kind: type[D], *, verify: bool) -> D:
    """A description, the files beside it compared with it: sizes always, contents (SHA-256) with `verify`.

    Raises: ArtifactError, if there is none; CorruptArtifact, if it or a file is not what was exported.
    """
    if not path.is_file():
        raise ArtifactError(f"{path.parent}: no {path.name}. Give the directory that the export wrote, as a whole.")
    try:
        described = kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "JSON"
        raise CorruptArtifact(
            f"{path}: does not describe such an export ({where}: {first['msg']}). Export the model again."
        ) from error
    for name, expected in described.files.items():
        _require_file(path.parent / name, expected, verify=verify)
    return described


def _require_file(path: Path, expected: FileSpec, *, verify: bool) -> None:
    if not path.is_file():
        raise CorruptArtifact(f"{path}: missing. Copy the whole directory, or export the model again.")
    found = path.stat().st_size
    if found != expected.bytes:
        raise CorruptArtifact(
            f"{path}: {found:,} bytes, the manifest says {expected.bytes:,}. Copy it or export the model again."
        )
    if verify and file_spec(path) != expected:
        raise CorruptArtifact(f"{path}: its content is not what was exported. Copy it or export the model again.")


def file_spec(path: Path) -> FileSpec:
    """Size and hash of a file."""
    with path.open("rb") as file:
        return FileSpec(bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())
