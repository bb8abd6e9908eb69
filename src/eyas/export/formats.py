"""Every format by its name: what writes it, and how near it must be to its model."""

from __future__ import annotations

import atexit
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from eyas.export.ascend import export_ascend
from eyas.export.converter import Converter
from eyas.export.exported import Exported
from eyas.export.gguf import LIMITS as GGUF_LIMITS
from eyas.export.gguf import Quantisation, export_gguf
from eyas.export.onnx import LIMITS as ONNX_LIMITS
from eyas.export.onnx import PREFILL_LENGTHS, export_onnx
from eyas.parity import Limits
from eyas.recipe import Format
from eyas.runtimes.manifest import DType

GGUF: dict[Format, Quantisation] = {
    "gguf-f16": "F16", "gguf-q8_0": "Q8_0", "gguf-q4_0": "Q4_0", "gguf-q4_k_m": "Q4_K_M",
}  # fmt: skip
ONNX: dict[Format, DType] = {"onnx-fp32": "float32", "onnx-fp16": "float16", "ascend": "float16"}


@dataclass(frozen=True)
class Shapes:
    """Of formats that have fixed ones; the others take any length."""

    context_length: int | None = None
    """Tokens of prompt and completion; None: the model's own, at most 1,024."""
    prefill_lengths: tuple[int, ...] = PREFILL_LENGTHS
    """Tokens that a graph takes at once."""


def export_as(format_: Format, model_dir: Path, *, directory: Path, name: str, shapes: Shapes) -> Exported:
    """Write a model in Hugging Face layout to `directory`, as a file or directory that begins with `name`.

    Raises: ExportError or ModelError, if the model cannot be written so; MissingExtra.
    """
    if format_ in GGUF:
        out = directory / f"{name}-{GGUF[format_]}.gguf"
        return export_gguf(model_dir, out=out, quantisation=GGUF[format_], converter=running_converter())
    out = directory / f"{name}-{format_}"
    if format_ == "ascend":
        return export_ascend(
            model_dir, out=out, context_length=shapes.context_length, prefill_lengths=shapes.prefill_lengths
        )
    return export_onnx(
        model_dir,
        out=out,
        dtype=ONNX[format_],
        context_length=shapes.context_length,
        prefill_lengths=shapes.prefill_lengths,
    )


@cache
def running_converter() -> Converter:
    """One for all files of this process, which ends it: its start takes as long as a small model's conversion."""
    converter = Converter()
    atexit.register(converter.close)
    return converter


def limits_of(format_: Format) -> Limits:
    """What a file of this format may differ from its model by."""
    return GGUF_LIMITS[GGUF[format_]] if format_ in GGUF else ONNX_LIMITS[ONNX[format_]]
