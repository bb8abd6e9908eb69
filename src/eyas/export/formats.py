"""Every format by its name: what writes it, what it is compared by, and how near it must be to its model."""

from __future__ import annotations

import atexit
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from eyas.errors import ExportError, MissingExtra
from eyas.export.ascend import export_ascend
from eyas.export.card import ModelCard
from eyas.export.converter import Converter, converter_directory, k_quantiser
from eyas.export.exported import Exported
from eyas.export.gguf import LIMITS as GGUF_LIMITS
from eyas.export.gguf import Quantisation, export_gguf
from eyas.export.onnx import LIMITS as ONNX_LIMITS
from eyas.export.onnx import PREFILL_LENGTHS, export_onnx
from eyas.export.ort_genai import LIMITS as ORT_GENAI_LIMITS
from eyas.export.ort_genai import MODULES as ORT_GENAI_MODULES
from eyas.export.ort_genai import export_ort_genai
from eyas.export.safetensors import export_safetensors
from eyas.export.w8a8 import LIMITS as W8A8_LIMITS
from eyas.export.w8a8 import export_w8a8, quantiser_directory
from eyas.export.w8a8_oracle import load_w8a8_oracle
from eyas.parity import Limits
from eyas.recipe import Format
from eyas.runtimes.llama_c import PACKAGE, own_library
from eyas.runtimes.manifest import DType
from eyas.runtimes.opening import open_runtime
from eyas.runtimes.runtime import Runtime

GGUF: dict[Format, Quantisation] = {
    "gguf-f16": "F16", "gguf-q8_0": "Q8_0", "gguf-q4_0": "Q4_0", "gguf-q4_k_m": "Q4_K_M",
}  # fmt: skip
ONNX: dict[Format, DType] = {"onnx-fp32": "float32", "onnx-fp16": "float16", "ascend": "float16"}
PACKAGES: dict[Format, tuple[str, tuple[str, ...]]] = {
    **dict.fromkeys(GGUF, ("gguf", ("gguf", PACKAGE))),
    **dict.fromkeys(ONNX, ("onnx", ("onnx", "onnxruntime"))),
    "ort-genai-int4": ("ort-genai", ORT_GENAI_MODULES),
}
"""Our extra, and its modules without which a file cannot be written or compared."""


@dataclass(frozen=True)
class Choices:
    """What only some formats ask for."""

    context_length: int | None = None
    """Of fixed shapes: tokens of prompt and completion; None: the model's own, at most 1,024."""
    prefill_lengths: tuple[int, ...] = PREFILL_LENGTHS
    """Of fixed shapes: tokens that a graph takes at once."""
    card: ModelCard | None = None
    """Of safetensors; None: a card that says the model's name."""


def require_available(format_: Format) -> None:
    """What writes and what runs a format is here, or fetched now: asked before work that may take hours.

    Raises: MissingExtra; ExportError, for Q4_K_M without `llama-quantize`, or a converter that cannot be fetched.
    """
    extra, modules = PACKAGES.get(format_, ("", ()))
    for module in modules:
        if importlib.util.find_spec(module) is None and not (module == PACKAGE and own_library()):
            raise MissingExtra(module.replace("_", "-"), extra=extra, purpose=f"the format {format_}")
    if format_ == "gguf-q4_k_m":
        k_quantiser("Q4_K_M")
    if format_ in GGUF:
        converter_directory()
    elif format_ == "w8a8":
        quantiser_directory()


def require_room(context_length: int, *, needed: int, name: str) -> None:
    """The expanded export stage `name` can ask its file what its model was asked.

    Raises: ExportError, if answers would be cut where the model's were not: a loss that is none of the format's.
    """
    if context_length < needed:
        raise ExportError(
            f"the file holds {context_length:,} tokens of prompt and answer, the evaluation's longest prompt and "
            f"answer may have {needed:,} or more. Give `context_length: {needed}` or more in stage "
            f"{name.split('.')[0]!r} (`eyas deploy --context-length`), or lower the evaluation's "
            "`sampling.max_completion_tokens`."
        )


def path_of(format_: Format, *, directory: Path, name: str) -> Path:
    """The file or directory in `directory` that a model called `name` becomes, and that a runtime opens."""
    return directory / (f"{name}-{GGUF[format_]}.gguf" if format_ in GGUF else f"{name}-{format_}")


def export_as(format_: Format, model_dir: Path, *, out: Path, name: str, choices: Choices) -> Exported:
    """Write a model in Hugging Face layout to `out`, a file or a directory; a model card calls it `name`.

    Raises: ExportError or ModelError, if the model cannot be written so; MissingExtra.
    """
    if format_ in GGUF:
        return export_gguf(model_dir, out=out, quantisation=GGUF[format_], converter=running_converter())
    if format_ == "safetensors":
        return export_safetensors(model_dir, out=out, card=choices.card or ModelCard(name=name))
    if format_ == "w8a8":
        return export_w8a8(model_dir, out=out)
    if format_ == "ort-genai-int4":
        return export_ort_genai(model_dir, out=out)
    context, lengths = choices.context_length, choices.prefill_lengths
    if format_ == "ascend":
        return export_ascend(model_dir, out=out, context_length=context, prefill_lengths=lengths)
    return export_onnx(model_dir, out=out, dtype=ONNX[format_], context_length=context, prefill_lengths=lengths)


@cache
def running_converter() -> Converter:
    """One for all files of this process, which ends it: its start takes as long as a small model's conversion."""
    converter = Converter()
    atexit.register(converter.close)
    return converter


def open_compared(format_: Format, path: Path, *, context_length: int) -> Runtime:
    """What a file's log-probs are taken from: its runtime, or the oracle of a format that needs a device.

    Raises: as `open_runtime` and `load_w8a8_oracle`.
    """
    return load_w8a8_oracle(path) if format_ == "w8a8" else open_runtime(path, context_length=context_length)


def limits_of(format_: Format) -> Limits:
    """What a file of this format may differ from its model by."""
    if format_ in GGUF:
        return GGUF_LIMITS[GGUF[format_]]
    if format_ in ONNX:
        return ONNX_LIMITS[ONNX[format_]]
    return W8A8_LIMITS if format_ == "w8a8" else ORT_GENAI_LIMITS["int4"]
