"""An exported file, whatever its format, as a runtime."""

from __future__ import annotations

from pathlib import Path

from eyas.errors import ModelError
from eyas.runtimes.llamacpp import LlamaCpp
from eyas.runtimes.manifest import MANIFEST
from eyas.runtimes.onnx import load_onnx
from eyas.runtimes.ort_genai import GENAI_CONFIG, load_ort_genai
from eyas.runtimes.runtime import Runtime
from eyas.storage.processor import core_count


def open_runtime(path: Path, *, threads: int | None = None, context_length: int | None = None) -> Runtime:
    """A GGUF file in llama.cpp, static graphs in onnxruntime, the builder's directory in onnxruntime-genai.

    All cores unless `threads`. `context_length` reserves less than the model's own, where the format lets it: static
    graphs keep theirs.

    Raises: ModelError, if it is none of these; it or CorruptArtifact, if damaged; DataError, for a context longer
    than the model's; MissingExtra.
    """
    if path.is_file():
        return LlamaCpp(path, threads=threads, context_length=context_length)
    if (path / MANIFEST).is_file():
        return load_onnx(path, threads=threads or core_count())
    if (path / GENAI_CONFIG).is_file():
        return load_ort_genai(path, threads=threads or core_count(), context_length=context_length)
    found = "a directory without them" if path.is_dir() else "nothing"
    raise ModelError(
        f"{path}: expected a GGUF file, or a directory with the {MANIFEST} of an ONNX export or the {GENAI_CONFIG} "
        f"of one for onnxruntime-genai; found {found}. Make one with `eyas export`."
    )
