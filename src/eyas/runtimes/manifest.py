"""What a directory of graphs says of itself and its files, read before a library opens them. Needs no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from eyas.errors import ArtifactError, CorruptArtifact

MANIFEST = "manifest.json"
WEIGHTS = "weights.bin"
"""The tensors of all graphs of a directory."""
HIDDEN = -10_000.0
"""An addend above it would not hide a key for certain: scores of some hundreds are seen, and exp(-10,000) is 0."""
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
    """A description that vouches for the files beside it, and says what of the model a host must know."""

    files: dict[str, FileSpec]
    """By their path inside the directory."""
    vocabulary: PositiveInt
    context_length: PositiveInt
    """Tokens of prompt and completion together; in static graphs the slots of past_kv."""
    stop_ids: tuple[int, ...] = Field(min_length=1)


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
    window: PositiveInt | None
    """Tokens that attn_bias_sliding lets a token look back on, itself included; None: the graphs lack that input."""
    masked: float = Field(le=HIDDEN)
    """Addend that hides a key."""
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


def graph_tensors(
    length: int,
    *,
    layers: int,
    kv_heads: int,
    head_dim: int,
    vocabulary: int,
    context_length: int,
    dtype: DType,
    sliding: bool,
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of the graph that takes `length` tokens, in the order of the file."""
    bias = TensorSpec(name="attn_bias", dtype=dtype, shape=(1, 1, length, context_length + length))
    inputs = (
        TensorSpec(name="input_ids", dtype="int64", shape=(1, length)),
        bias,
        TensorSpec(name="position_ids", dtype="int64", shape=(1, length)),
        TensorSpec(name="past_kv", dtype=dtype, shape=(2 * layers, 1, kv_heads, context_length, head_dim)),
    )
    outputs = (
        TensorSpec(name="logits", dtype=dtype, shape=(length, vocabulary)),
        TensorSpec(name="new_kv", dtype=dtype, shape=(2 * layers, 1, kv_heads, length, head_dim)),
    )
    return (*inputs, bias.model_copy(update={"name": "attn_bias_sliding"})) if sliding else inputs, outputs


def read_manifest(directory: Path, *, verify: bool = True) -> StaticManifest:
    """The manifest of an export of static graphs, its files compared with it as `read_described` does.

    Raises: as `read_described`; CorruptArtifact too, if it contradicts itself.
    """
    manifest = read_described(directory / MANIFEST, StaticManifest, needs=(WEIGHTS,), verify=verify)
    path = directory / MANIFEST
    if manifest.graphs[0].length != 1:
        raise CorruptArtifact(f"{path}: the first graph takes {manifest.graphs[0].length} tokens, expected 1.")
    unknown = {*(graph.file for graph in manifest.graphs), *manifest.tokenizer} - set(manifest.files)
    if unknown:
        raise CorruptArtifact(f"{path}: `files` lacks {sorted(unknown)[0]}. Export the model again.")
    for graph in manifest.graphs:
        expected = graph_tensors(
            graph.length,
            layers=manifest.layers,
            kv_heads=manifest.kv_heads,
            head_dim=manifest.head_dim,
            vocabulary=manifest.vocabulary,
            context_length=manifest.context_length,
            dtype=manifest.dtype,
            sliding=manifest.window is not None,
        )
        if (graph.inputs, graph.outputs) != expected:
            raise CorruptArtifact(
                f"{path}: the tensors of {graph.name} are not those of the layers, heads, vocabulary, context, window "
                "and type that it states. Export the model again."
            )
    return manifest


def read_described(path: Path, kind: type[D], *, needs: Collection[str], verify: bool) -> D:
    """A description, the files beside it compared with it: sizes always, contents (SHA-256) with `verify`.

    Raises: ArtifactError, if there is none; CorruptArtifact, if it or a file is not what was exported, or it does not
    vouch for the files that it `needs` to.
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
    missing = set(needs) - set(described.files)
    if missing:
        raise CorruptArtifact(f"{path}: `files` lacks {sorted(missing)[0]}. Export the model again.")
    if not 0 <= min(described.stop_ids) <= max(described.stop_ids) < described.vocabulary:
        raise CorruptArtifact(
            f"{path}: stop_ids are {list(described.stop_ids)}, the vocabulary has {described.vocabulary}. Export the "
            "model again."
        )
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
