"""Files of onnxruntime-genai's model builder, run by that library: its graph and KV cache, our host loop."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import PositiveInt

from eyas.errors import CorruptArtifact, DataError, MissingExtra, ModelError
from eyas.runtimes.manifest import Described, read_described
from eyas.runtimes.runtime import Runtime
from eyas.runtimes.session import Logits

GENAI_CONFIG = "genai_config.json"
GENAI_MANIFEST = "ort_genai.json"
GRAPH, GENAI_WEIGHTS = "model.onnx", "model.onnx.data"
Precision = Literal["int4", "fp32"]
QUIET = 4
"""onnxruntime's severity FATAL: what is less is raised, not printed."""


class GenaiManifest(Described):
    """`ort_genai.json`: what was exported, for the library reads damaged files as far as it can."""

    format: Literal["eyas-ort-genai-1"] = "eyas-ort-genai-1"
    model_type: str
    precision: Precision
    block_size: PositiveInt | None
    """Weights of a row that share a scale; None where they have none."""


def read_genai_manifest(directory: Path, *, verify: bool = True) -> GenaiManifest:
    """`ort_genai.json`, compared with the files beside it as `read_described` does, and with `genai_config.json`.

    Raises: as `read_described`; CorruptArtifact too, if the two say different things of the model.
    """
    needs = (GENAI_CONFIG, GRAPH, GENAI_WEIGHTS, "tokenizer.json")
    manifest = read_described(directory / GENAI_MANIFEST, GenaiManifest, needs=needs, verify=verify)
    stated = (manifest.vocabulary, manifest.context_length, list(manifest.stop_ids))
    try:
        model = json.loads((directory / GENAI_CONFIG).read_bytes())["model"]
        found = (model["vocab_size"], model["context_length"], model["eos_token_id"])
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptArtifact(f"{directory / GENAI_CONFIG}: describes no model. Export it again.") from error
    if found != stated:
        raise CorruptArtifact(
            f"{directory}: vocabulary, context and stop ids are {stated} in {GENAI_MANIFEST} and {found} in "
            f"{GENAI_CONFIG}. Copy the whole directory, or export the model again."
        )
    return manifest


def load_ort_genai(
    directory: Path, *, threads: int = 0, context_length: int | None = None, verify: bool = True
) -> Runtime:
    """Open what `export_ort_genai` wrote.

    The cache of the whole context is reserved unless `context_length` is less; `threads` 0 lets onnxruntime choose.
    `verify` reads all files once to compare their hashes, before the load time begins.

    Raises: MissingExtra, without onnxruntime-genai; ArtifactError and CorruptArtifact, if the files are not as
    exported; DataError, for a context longer than the model's.
    """
    try:
        import onnxruntime_genai
    except ImportError as error:
        raise MissingExtra("onnxruntime-genai", extra="ort-genai", purpose="running such files") from error
    manifest = read_genai_manifest(directory, verify=verify)
    started = time.perf_counter()
    session = GenaiSession(directory, manifest, threads=threads, context_length=context_length)
    load_s = time.perf_counter() - started
    return Runtime(session, name="onnxruntime-genai", version=onnxruntime_genai.__version__, load_s=load_s)


class GenaiSession:
    """Session over one Generator of onnxruntime-genai, which appends tokens and never picks any."""

    def __init__(
        self, directory: Path, manifest: GenaiManifest, *, threads: int = 0, context_length: int | None = None
    ) -> None:
        """Raises: CorruptArtifact, if the library cannot load it; DataError, for too long a context."""
        import onnxruntime_genai

        self._path, self._vocabulary = directory, manifest.vocabulary
        self.context_length = context_length or manifest.context_length
        if not 0 < self.context_length <= manifest.context_length:
            raise DataError(
                f"{directory}: a context of {self.context_length} tokens, the model has {manifest.context_length}."
            )
        options = {"intra_op_num_threads": threads, "log_severity_level": QUIET}
        try:
            config = onnxruntime_genai.Config(str(directory))
            config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
            self._model = onnxruntime_genai.Model(config)
            parameters = onnxruntime_genai.GeneratorParams(self._model)
            parameters.set_search_options(max_length=self.context_length)
            self._generator = onnxruntime_genai.Generator(self._model, parameters)
        except RuntimeError as error:  # all that the bindings raise
            raise CorruptArtifact(
                f"{directory}: onnxruntime-genai {onnxruntime_genai.__version__} cannot load it ({_words(error)}). "
                "Export the model again."
            ) from error
        self.graph_s = 0.0
        self._count = 0

    def prefill(self, ids: Sequence[int], *, every: bool) -> Logits:
        self._append(ids)
        logits_TV: Logits = (self._generator.get_output("logits") if every else self._generator.get_logits())[0]
        return logits_TV

    def decode(self, token_id: int) -> Logits:
        self._append((token_id,))
        logits_V: Logits = self._generator.get_logits()[0, 0]
        return logits_V

    def reset(self) -> None:
        self._generator.rewind_to(0)
        self._count = 0

    def close(self) -> None:
        del self._generator, self._model

    def _append(self, ids: Sequence[int]) -> None:
        """The library checks neither: an id of no token is read from other memory, or as another's."""
        if not ids or self._count + len(ids) > self.context_length:
            raise DataError(
                f"{self._path}: {len(ids)} tokens after {self._count}, expected at least one and at most "
                f"{self.context_length} in all. Shorten the prompt, or open it with a longer context."
            )
        tokens: Any = np.asarray(ids, dtype=np.int32)
        if tokens.min() < 0 or tokens.max() >= self._vocabulary:
            raise DataError(
                f"{self._path}: ids from {tokens.min()} to {tokens.max()}, its vocabulary has {self._vocabulary}. "
                "Use the ids of its own tokenizer."
            )
        started = time.perf_counter()
        try:
            self._generator.append_tokens(tokens)
        except RuntimeError as error:
            raise ModelError(f"{self._path}: onnxruntime-genai cannot run it ({_words(error)}).") from error
        self.graph_s += time.perf_counter() - started
        self._count += len(ids)


def _words(error: RuntimeError) -> str:
    """The end of the first line, which is what happened; where in the source comes before it."""
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    return first.rpartition("[ONNXRuntimeError]")[2].strip(" :")[:200]
