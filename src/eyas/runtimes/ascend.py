"""Static graphs compiled by CANN's atc (.om), run by ais_bench's InferSession. Not run on hardware."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from eyas.errors import ArtifactError, CorruptArtifact, MissingExtra
from eyas.runtimes.manifest import GraphSpec, TensorSpec, read_manifest
from eyas.runtimes.runtime import Runtime
from eyas.runtimes.static import Array, StaticSession, require_same


class InferSession(Protocol):
    """What is used of `ais_bench.infer.interface.InferSession` (Ascend msit tools, components/benchmark)."""

    def get_inputs(self) -> Sequence[Any]:
        """Descriptions with `name` and `shape`."""

    def get_outputs(self) -> Sequence[Any]: ...

    def infer(self, feeds: list[Array], mode: str = "static") -> list[Array]:
        """Copies the inputs to the device, runs, copies the outputs back."""

    def free_resource(self) -> None: ...


def load_ascend(
    directory: Path,
    *,
    soc: str,
    device_id: int = 0,
    prefill_lengths: Sequence[int] | None = None,
    verify: bool = True,
) -> Runtime:
    """Open what `export_ascend` wrote and atc_SOC.sh compiled; arguments else as `load_onnx`.

    Raises: MissingExtra, without ais_bench or CANN; ArtifactError, if the .om files were not made; CorruptArtifact,
    if CANN cannot load one or it is of another export; DataError, for a prefill length that the export lacks.
    """
    try:
        from ais_bench.infer import interface
    except ImportError as error:
        raise MissingExtra(
            "ais_bench",
            extra=None,
            purpose=f"running .om files (ASCEND.md, step 3; found: {error})",
            command="pip install aclruntime-*.whl ais_bench-*.whl",
        ) from error
    manifest = read_manifest(directory, verify=verify)

    def open_graph(spec: GraphSpec, arrays: Mapping[str, Array]) -> AscendGraph:
        path = directory / "om" / soc / f"{spec.name}.om"
        if not path.is_file():
            raise ArtifactError(f"{path}: not there. Run atc_{soc}.sh beside the manifest where CANN is installed.")
        try:
            session = interface.InferSession(device_id=device_id, model_path=str(path))
        except (RuntimeError, ValueError, OSError) as error:
            raise CorruptArtifact(
                f"{path}: CANN cannot load it on device {device_id} ({str(error)[:200]}). Compile it again for the "
                "chip that npu-smi info shows."
            ) from error
        return AscendGraph(path, spec, arrays, session=session)

    started = time.perf_counter()
    session = StaticSession(manifest, open_graph, lengths=prefill_lengths)
    load_s = time.perf_counter() - started
    return Runtime(session, name="ais_bench", version=_version(), load_s=load_s)


def _version() -> str:
    """Of ais_bench; builds from source may have none."""
    try:
        return metadata.version("ais_bench")
    except metadata.PackageNotFoundError:
        return "unknown"


class AscendGraph:
    """One compiled graph. Every run copies all inputs to the device, the whole cache too."""

    def __init__(self, path: Path, spec: GraphSpec, arrays: Mapping[str, Array], *, session: InferSession) -> None:
        """Raises: CorruptArtifact, if the graph's shapes are not those of the manifest."""
        require_same(
            path,
            spec,
            inputs=[(tensor.name, tuple(tensor.shape)) for tensor in session.get_inputs()],
            outputs=_by_position(session.get_outputs(), spec.outputs),
        )
        self._session = session
        self._feeds = [arrays[given.name] for given in spec.inputs]

    def run(self) -> tuple[Array, Array]:
        """As `Graph.run`."""
        logits_SV, new_kv = self._session.infer(self._feeds, mode="static")
        return logits_SV, new_kv

    def close(self) -> None:
        """Give the device's memory back."""
        self._session.free_resource()


def _by_position(found: Sequence[Any], expected: Sequence[TensorSpec]) -> list[tuple[str, tuple[int, ...]]]:
    """atc renames outputs after the node that makes them; inputs keep their names."""
    names = [tensor.name for tensor in expected] + [tensor.name for tensor in found[len(expected) :]]
    return [(name, tuple(tensor.shape)) for name, tensor in zip(names, found, strict=False)]
