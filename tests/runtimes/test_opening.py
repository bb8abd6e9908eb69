"""Any exported file opens by its path; what is none says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from static_models import make_model

from eyas.errors import ModelError
from eyas.export.onnx import export_onnx
from eyas.runtimes.opening import open_runtime


def test_a_gguf_and_a_directory_of_graphs_open_as_what_they_are(nano_gguf: Path, tmp_path: Path) -> None:
    with open_runtime(nano_gguf, threads=1, context_length=64) as runtime:
        assert (runtime.name, runtime.context_length) == ("xllamacpp", 64)
    export_onnx(make_model(tmp_path / "model", "llama"), out=tmp_path / "onnx", context_length=32, prefill_lengths=())
    with open_runtime(tmp_path / "onnx", threads=1) as runtime:
        assert (runtime.name, runtime.context_length) == ("onnxruntime", 32)


def test_anything_else_is_refused_with_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"expected a GGUF file.*found a directory without them"):
        open_runtime(tmp_path)
    with pytest.raises(ModelError, match="found nothing"):
        open_runtime(tmp_path / "gone.gguf")
