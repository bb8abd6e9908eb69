"""What a directory of W8A8 weights must hold: every tensor described, of the type and shape its description says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from eyas.errors import ArtifactError, CorruptArtifact

DESCRIPTION = "quant_model_description.json"
QUANTISED, FLOAT = "W8A8_DYNAMIC", "FLOAT"
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
UNQUANTISED = ("lm_head.weight", "model.embed_tokens.weight", "model.norm.weight")


@dataclass(frozen=True)
class W8A8Weights:
    """A directory's tensors."""

    tensors: Mapping[str, Tensor]
    linears: tuple[str, ...]
    """Names of the quantised layers: each has `.weight` int8 [N, D], `.weight_scale` and `.weight_offset` [N, 1]."""


def read_w8a8(directory: Path) -> W8A8Weights:
    """Read all weights, compared with their description.

    Raises: ArtifactError, if there is no description; CorruptArtifact, if it is none, if a file cannot be read, or a
    tensor is not as described.
    """
    path = directory / DESCRIPTION
    if not path.is_file():
        raise ArtifactError(f"{directory}: no {DESCRIPTION}. Give the directory that the W8A8 export wrote.")
    try:
        described = json.loads(path.read_text())
        kinds = {name: kind for name, kind in described.items() if "." in name}
        whole = described["model_quant_type"]
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise CorruptArtifact(f"{path}: not a description of W8A8 weights. Export the model again.") from error
    tensors = _tensors(directory)
    if whole != QUANTISED or set(tensors) != set(kinds):
        odd = sorted(set(tensors) ^ set(kinds))
        raise CorruptArtifact(
            f"{path}: describes {whole!r} with {len(kinds)} tensors, the files hold {len(tensors)} "
            f"({'all of them' if not odd else 'not in both: ' + odd[0]}), expected {QUANTISED!r} and the same names. "
            "Copy the whole directory, or export the model again."
        )
    linears = sorted(name.removesuffix(".weight_scale") for name in tensors if name.endswith(".weight_scale"))
    for name, kind in kinds.items():
        _require(name, tensors, expected=_expected(name, linears), kind=kind, path=path)
    return W8A8Weights(tensors, tuple(linears))


def _tensors(directory: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file in sorted(directory.glob("*.safetensors")):
        try:
            tensors |= load_file(file)
        except (SafetensorError, OSError) as error:
            raise CorruptArtifact(
                f"{file}: cannot be read ({error}). Copy it again, or export the model again."
            ) from error
    return tensors


def _expected(name: str, linears: list[str]) -> str:
    layer, _, part = name.rpartition(".")
    return QUANTISED if layer in linears and part in ("weight", "weight_scale", "weight_offset") else FLOAT


def _require(name: str, tensors: Mapping[str, Tensor], *, expected: str, kind: object, path: Path) -> None:
    found = tensors[name]
    layer, _, part = name.rpartition(".")
    good = kind == expected and found.dtype in FLOATS
    if expected == QUANTISED:
        rows = tensors[f"{layer}.weight"].shape[0] if f"{layer}.weight" in tensors else -1
        good = kind == expected and name not in UNQUANTISED
        if part == "weight":
            good = good and found.dtype == torch.int8 and found.ndim == 2
        else:
            good = good and found.dtype in FLOATS and found.shape == (rows, 1)
    if not good:
        raise CorruptArtifact(
            f"{path}: {name} is described as {kind!r} and is {str(found.dtype).removeprefix('torch.')} "
            f"{list(found.shape)}, expected {expected} of its type and shape. Export the model again."
        )
