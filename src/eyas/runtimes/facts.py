"""What an exported file is, read without loading it: format, sizes, and what a decode step has to read of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from eyas.errors import ModelError
from eyas.runtimes.llamacpp import kv_cache_bytes
from eyas.runtimes.manifest import MANIFEST, WEIGHTS, StaticManifest, read_manifest
from eyas.runtimes.ort_genai import GENAI_CONFIG, GENAI_MANIFEST, GenaiManifest, read_genai_manifest
from eyas.storage.gguf import TOKENS, GGUFHead, read_gguf_head

EMBEDDING, HEAD = "token_embd.weight", "output.weight"
"""Tensors of a GGUF file; one without a head multiplies with the embeddings."""
EXPERTS = "_exps."
"""In the names of tensors that hold all experts of a layer; shared experts, of which every token needs all, have
another (`TENSOR_NAMES` in gguf/constants.py)."""
GENAI_KV_BYTES = 4
"""The builder's graphs for the CPU keep keys and values in float32, int4 weights or not."""
BITS = {"float32": 32, "float16": 16}


@dataclass(frozen=True)
class FileFacts:
    """An exported file or directory of graphs."""

    path: Path
    format: str
    """GGUF, ONNX or ORT-GenAI."""
    quantisation: str
    """As the file names itself: Q4_K_M, F16, float32, …"""
    bytes: int
    """All that has to be on the device, tokenizer included."""
    parameters: int | None
    """Stored numbers; tied weights count once. None where the file does not tell."""
    bits_per_weight: float | None
    """Scales included, metadata not. None where the file does not tell its parameters."""
    read_bytes: int
    """Weights that a token needs: without embeddings of which one row is looked up, of a mixture of experts as many as
    a token is sent to. In static graphs, whose tensors are not told apart here, and ORT-GenAI's: all weights."""
    kv_bytes_per_token: float
    """Keys and values of one token, all layers. Sliding windows are not subtracted."""
    kv_slots: int | None
    """Tokens whose keys and values every step reads, whatever the depth; None where it reads those there are."""
    context_length: int
    """Tokens of prompt and completion together."""
    vocabulary: int

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.path.name


def file_facts(path: Path) -> FileFacts:
    """Facts of a GGUF file, a directory of static graphs, or of onnxruntime-genai; file sizes are compared with its
    manifest.

    Raises: ModelError, if it is none of these, or damaged; ArtifactError, without its manifest; CorruptArtifact;
    MissingExtra, without the package `gguf`.
    """
    if path.is_file():
        return _of_gguf(path, read_gguf_head(path))
    if (path / MANIFEST).is_file():
        return _of_graphs(path, read_manifest(path, verify=False))
    if (path / GENAI_CONFIG).is_file():
        return _of_genai(path, read_genai_manifest(path, verify=False))
    found = "a directory of something else" if path.is_dir() else "nothing there"
    raise ModelError(f"{path}: expected a GGUF file or the directory of an ONNX export; found {found}. Export one.")


def _of_gguf(path: Path, head: GGUFHead) -> FileFacts:
    return FileFacts(
        path=path,
        format="GGUF",
        quantisation=_quantisation(head),
        bytes=head.bytes,
        parameters=head.parameters,
        bits_per_weight=head.bits_per_weight,
        read_bytes=_gguf_read_bytes(path, head),
        kv_bytes_per_token=_gguf_kv_numbers(path, head) * kv_cache_bytes(head),
        kv_slots=None,
        context_length=_number(path, head, "context_length"),
        vocabulary=len(head.metadata[TOKENS]),
    )


def _quantisation(head: GGUFHead) -> str:
    """The file's own name for it, else the type that most tensors have."""
    from gguf import LlamaFileType

    named = head.metadata.get("general.file_type")
    if named in set(LlamaFileType):
        return str(LlamaFileType(named).name.removeprefix("MOSTLY_").removeprefix("ALL_"))
    return max(head.types, key=lambda kind: head.types[kind])


def _gguf_read_bytes(path: Path, head: GGUFHead) -> int:
    """Bytes of the weights that a token needs."""
    bytes_of = {tensor.name: tensor.bytes for tensor in head.tensors}
    looked_up = bytes_of.get(EMBEDDING, 0) if HEAD in bytes_of else 0
    experts = sum(size for name, size in bytes_of.items() if EXPERTS in name)
    unused = 0
    if experts:
        count, used = (_number(path, head, key) for key in ("expert_count", "expert_used_count"))
        unused = experts * (count - used) // count
    return sum(bytes_of.values()) - looked_up - unused


def _gguf_kv_numbers(path: Path, head: GGUFHead) -> int:
    """Numbers of a token's keys and values, all layers."""
    layers, heads = _number(path, head, "block_count"), _number(path, head, "attention.head_count")
    groups = head.metadata.get(f"{head.architecture}.attention.head_count_kv", heads)
    width = _number(path, head, "embedding_length") // heads
    each = [
        head.metadata.get(f"{head.architecture}.attention.{part}", width) for part in ("key_length", "value_length")
    ]
    return (sum(groups) if isinstance(groups, tuple) else layers * int(groups)) * sum(map(int, each))


def _number(path: Path, head: GGUFHead, key: str) -> int:
    found = head.metadata.get(f"{head.architecture}.{key}")
    if isinstance(found, tuple) and found:
        found = max(found)
    if not isinstance(found, int) or found < 1:
        raise ModelError(f"{path}: {head.architecture}.{key} is {found!r}, expected a number. Export the model again.")
    return found


def _of_graphs(path: Path, manifest: StaticManifest) -> FileFacts:
    return FileFacts(
        path=path,
        format="ONNX",
        quantisation=manifest.dtype,
        bytes=sum(spec.bytes for spec in manifest.files.values()) + (path / MANIFEST).stat().st_size,
        parameters=None,
        bits_per_weight=float(BITS[manifest.dtype]),
        read_bytes=manifest.files[WEIGHTS].bytes,
        kv_bytes_per_token=manifest.cache_bytes / manifest.context_length,
        kv_slots=manifest.context_length,
        context_length=manifest.context_length,
        vocabulary=manifest.vocabulary,
    )


def _of_genai(path: Path, manifest: GenaiManifest) -> FileFacts:
    decoder = json.loads((path / GENAI_CONFIG).read_text(encoding="utf-8"))["model"]["decoder"]
    numbers = 2 * decoder["num_hidden_layers"] * decoder["num_key_value_heads"] * decoder["head_size"]
    return FileFacts(
        path=path,
        format="ORT-GenAI",
        quantisation=manifest.precision,
        bytes=sum(spec.bytes for spec in manifest.files.values()) + (path / GENAI_MANIFEST).stat().st_size,
        parameters=None,
        bits_per_weight=None,
        read_bytes=sum(spec.bytes for name, spec in manifest.files.items() if name.endswith(".onnx.data")),
        kv_bytes_per_token=numbers * GENAI_KV_BYTES,
        kv_slots=None,
        context_length=manifest.context_length,
        vocabulary=manifest.vocabulary,
    )
