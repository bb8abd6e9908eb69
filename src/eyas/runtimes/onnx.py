"""Static graphs by onnxruntime on the CPU."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eyas.errors import CorruptArtifact, MissingExtra
from eyas.runtimes.manifest import GraphSpec, read_manifest
from eyas.runtimes.runtime import Runtime
from eyas.runtimes.static import StaticSession, require_same

if TYPE_CHECKING:
    import onnxruntime


def load_onnx(
    directory: Path, *, threads: int = 0, prefill_lengths: Sequence[int] | None = None, verify: bool = True
) -> Runtime:
    """Open what `export_onnx` wrote.

    `threads` 0 lets onnxruntime choose. Every prefill length that is opened holds its own copy of the weights in
    memory: `prefill_lengths` opens only some, `()` none, so that prompts go in token by token. `verify` reads all files
    once to compare their hashes, before the load time begins.

    Raises: MissingExtra, without onnxruntime; ArtifactError and CorruptArtifact, if the files are not as exported;
    DataError, for a length that the export lacks.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra("onnxruntime", extra="onnx", purpose="running ONNX files") from error
    manifest = read_manifest(directory, verify=verify)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors are raised; warnings would go to the terminal

    def open_graph(spec: GraphSpec, arrays: Mapping[str, NDArray[Any]]) -> OnnxGraph:
        return OnnxGraph(directory / spec.file, spec, arrays, options=options)

    started = time.perf_counter()
    session = StaticSession(manifest, open_graph, lengths=prefill_lengths)
    load_s = time.perf_counter() - started
    return Runtime(session, name="onnxruntime", version=onnxruntime.__version__, load_s=load_s)


class OnnxGraph:
    """One graph, bound once to the memory of its inputs and outputs: a run copies neither."""

    def __init__(
        self,
        path: Path,
        spec: GraphSpec,
        arrays: Mapping[str, NDArray[Any]],
        *,
        options: onnxruntime.SessionOptions,
    ) -> None:
        """Raises: CorruptArtifact, if the file is no graph, or not the one that the manifest describes."""
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        try:
            session = onnxruntime.InferenceSession(path, sess_options=options, providers=["CPUExecutionProvider"])
        except (  # all that the bindings raise; they have no common class
            state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf, state.NoSuchFile,
            state.NotImplemented, state.RuntimeException,
        ) as error:  # fmt: skip
            raise CorruptArtifact(
                f"{path}: onnxruntime cannot load it ({str(error).splitlines()[0][:200]}). Export the model again."
            ) from error
        require_same(path, spec, inputs=_shapes(session.get_inputs()), outputs=_shapes(session.get_outputs()))
        self._session = session
        self._binding = session.io_binding()
        self._outputs = tuple(np.empty(output.shape, output.dtype) for output in spec.outputs)
        value_of = onnxruntime.OrtValue.ortvalue_from_numpy  # on the CPU a view of the array
        for given in spec.inputs:
            self._binding.bind_ortvalue_input(given.name, value_of(arrays[given.name]))
        for made, array in zip(spec.outputs, self._outputs, strict=True):
            self._binding.bind_ortvalue_output(made.name, value_of(array))

    def run(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """As `Graph.run`."""
        self._session.run_with_iobinding(self._binding)
        return self._outputs[0], self._outputs[1]

    def close(self) -> None:
        """Let onnxruntime free the weights."""
        del self._binding, self._session


def _shapes(nodes: Sequence[Any]) -> list[tuple[str, tuple[int, ...]]]:
    return [(node.name, tuple(node.shape)) for node in nodes]
