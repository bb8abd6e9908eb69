"""A directory for onnxruntime-genai: int4 weights for CPUs, x86 and ARM, by that package's own builder."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
import tempfile
from pathlib import Path

from eyas.errors import ExportError, EyasError, MissingExtra
from eyas.export.exported import Exported
from eyas.export.isolated import last_line, run_program
from eyas.parity import Limits
from eyas.runtimes.manifest import file_spec
from eyas.runtimes.ort_genai import (
    GENAI_CONFIG,
    GENAI_MANIFEST,
    GENAI_WEIGHTS,
    GRAPH,
    GenaiManifest,
    Precision,
    load_ort_genai,
)
from eyas.storage.artifacts import atomic_path, write_json
from eyas.storage.models import parameter_count
from eyas.storage.origins import link_model, read_config
from eyas.storage.tokenization import load_tokenizer, stop_ids

BUILDER = "onnxruntime_genai.models.builder"
MODULES = ("onnxruntime_genai", "onnx_ir")
"""Of our extra: the builder and what it needs."""
BLOCK_SIZE = 32
"""Weights that share a scale: the builder's default, and GGUF's Q4_0's."""
HEAD_MULTIPLE = 16
"""Of a head's width: onnxruntime's GroupQueryAttention computes rotary embeddings for no other."""
LIMITS: dict[Precision, Limits] = {
    "fp32": Limits(error_nats=0.01, kl_nats=1e-6, gap_nats=0.001),
    "int4": Limits(error_nats=math.inf, kl_nats=1.5, gap_nats=math.inf),
}
"""Set after seeing docs/export-ort-genai.md's figures. fp32 differs by rounding alone: its limits are 160 (error) and
80,000 times (KL) the largest figures and still find any mistake in the graph. Four bits, rounded to nearest, cost small
models much: with int4 the KL can tell a broken file only, and accuracy says whether a coarse one will do."""


def export_ort_genai(model_dir: Path, *, out: Path, precision: Precision = "int4") -> Exported:
    """Write `out`, a directory that onnxruntime-genai opens: graph, weights, tokenizer, genai_config.json.

    With int4 the library's matrix products quantise activations to int8 as they go; fp32 shows what the graph alone
    changes. `ort_genai.json` vouches for the files. Not
    a check of the logits: that is parity, by a runtime. Not for `atc`: the graph is made of Microsoft's operators.

    Raises: MissingExtra, without onnxruntime-genai and onnx_ir; ExportError, if the builder cannot convert the model,
    or the library cannot run what it made; ModelError, if the directory cannot be read.
    """
    for package in MODULES:
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(package.replace("_", "-"), extra="ort-genai", purpose="exporting for onnxruntime-genai")
    with tempfile.TemporaryDirectory() as scratch, atomic_path(out) as draft:
        source = Path(scratch) / model_dir.resolve().name
        link_model(model_dir.resolve(), source)
        _require_head(source)
        _build(source, draft, precision=precision, cache=Path(scratch) / "cache", name=str(model_dir))
        manifest = _describe(source, draft, precision=precision)
        _require_runs(draft, name=str(model_dir))
    parameters = parameter_count(model_dir)
    bits = 8 * manifest.files[GENAI_WEIGHTS].bytes / parameters
    files = (out / GENAI_CONFIG, out / GENAI_MANIFEST, *(out / name for name in manifest.files if name != GENAI_CONFIG))
    return Exported(
        files=files,
        format="ort-genai",
        quantisation=manifest.precision,
        bytes=sum(file.stat().st_size for file in files),
        facts={
            "context_length": manifest.context_length,
            "parameters": parameters,
            "bits_per_weight": round(bits, 3),
            "block_size": manifest.block_size,
            "stop_ids": list(manifest.stop_ids),
        },
    )


def _require_head(model_dir: Path) -> None:
    config = read_config(model_dir)
    size = config.get("head_dim") or config.get("hidden_size", 0) // config.get("num_attention_heads", 1)
    if size % HEAD_MULTIPLE:
        raise ExportError(
            f"{model_dir.name}: heads of {size} numbers, onnxruntime computes heads of a multiple of {HEAD_MULTIPLE} "
            "only. Export it to GGUF or ONNX."
        )


def _build(source: Path, out: Path, *, precision: Precision, cache: Path, name: str) -> None:
    """Run the builder, in a process of its own: it puts modules of common names on the path."""
    options = ["-p", precision, "-e", "cpu", "-c", str(cache)]
    if precision == "int4":
        options += ["--extra_options", f"block_size={BLOCK_SIZE}"]
    done = run_program(
        [sys.executable, "-m", BUILDER, "-i", str(source), "-o", str(out), *options],
        environment={"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
    )
    if done.returncode or not all((out / file).is_file() for file in (GRAPH, GENAI_WEIGHTS, GENAI_CONFIG)):
        raise ExportError(
            f"{name}: the model builder of onnxruntime-genai cannot convert it: "
            f"{last_line(done.stderr).replace(str(source), name)}. "
            "docs/export-ort-genai.md lists the architectures that were tried; export it to GGUF or ONNX."
        )


def _describe(source: Path, directory: Path, *, precision: Precision) -> GenaiManifest:
    """Give the library all of the model's stop ids, and the directory its manifest."""
    stops = stop_ids(load_tokenizer(source), source)
    config = json.loads((directory / GENAI_CONFIG).read_text())
    config["model"]["eos_token_id"] = list(stops)
    write_json(directory / GENAI_CONFIG, config)
    names = sorted(path.name for path in directory.iterdir())
    manifest = GenaiManifest(
        model_type=read_config(source)["model_type"],
        precision=precision,
        block_size=BLOCK_SIZE if precision == "int4" else None,
        vocabulary=config["model"]["vocab_size"],
        context_length=config["model"]["context_length"],
        stop_ids=stops,
        files={name: file_spec(directory / name) for name in names},
    )
    (directory / GENAI_MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n")
    return manifest


def _require_runs(directory: Path, *, name: str) -> None:
    """One token, since the builder writes graphs that the library then refuses."""
    try:
        with load_ort_genai(directory, threads=1, context_length=2, verify=False) as runtime:
            runtime.top_logprobs([0, 0], k=1)
    except EyasError as error:
        raise ExportError(f"{name}: onnxruntime-genai cannot run what its builder made of it: {error}") from error
