"""The Ascend session against a recording: a module with ais_bench's signature replays what onnxruntime computed."""

from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eyas import builtin
from eyas.errors import ArtifactError, CorruptArtifact, MissingExtra
from eyas.export.ascend import export_ascend
from eyas.runtimes.ascend import load_ascend
from eyas.runtimes.manifest import GraphSpec, read_manifest
from eyas.runtimes.onnx import load_onnx
from eyas.runtimes.static import Array

PROMPT = [int(index) for index in np.random.default_rng(2).integers(3, 300, 21)]


@dataclass
class Recording:
    """Every run of every graph, in order: its name, what it was fed, what it gave."""

    runs: list[tuple[str, list[Array], list[Array]]] = field(default_factory=list)
    specs: dict[str, GraphSpec] = field(default_factory=dict)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded student's export, with files in the place of compiled graphs."""
    out = tmp_path_factory.mktemp("ascend") / "out"
    export_ascend(builtin.DIRECTORY / "nano-student", out=out, context_length=64, prefill_lengths=(16,))
    (out / "om" / "310B1").mkdir(parents=True)
    for graph in read_manifest(out).graphs:
        (out / "om" / "310B1" / f"{graph.name}.om").write_bytes(b"")
    return out


@pytest.fixture(scope="module")
def recorded(directory: Path) -> tuple[Recording, list[int]]:
    """A generation by onnxruntime and all that went in and out of its graphs."""
    recording = Recording(specs={graph.name: graph for graph in read_manifest(directory).graphs})
    with load_onnx(directory, threads=1) as runtime:
        session: Any = runtime.session
        for length, call in session._calls.items():
            name = "decode" if length == 1 else f"prefill_{length}"
            feeds = {"input_ids": call.ids_1S, "attn_bias": call.bias_SC.base, "position_ids": call.positions_1S}
            _record(call.graph, name, feeds | {"past_kv": session._past}, recording)
        made = list(runtime.generate(PROMPT, max_tokens=12, stop_ids=()))
    return recording, made


def _record(graph: Any, name: str, feeds: Mapping[str, Array], recording: Recording) -> None:
    run = graph.run

    def recording_run() -> tuple[Array, Array]:
        given = [feeds[tensor.name].copy() for tensor in recording.specs[name].inputs]
        made = run()
        recording.runs.append((name, given, [array.copy() for array in made]))
        return made

    graph.run = recording_run


def _install(monkeypatch: pytest.MonkeyPatch, recording: Recording, *, grow: int = 0, swap: bool = False) -> list[str]:
    """Put the replaying module in ais_bench's place; returns what was freed.

    `grow` widens every output, `swap` names input_ids and position_ids the other way round.
    """
    renamed = {"input_ids": "position_ids", "position_ids": "input_ids"} if swap else {}
    freed: list[str] = []
    pending = iter(recording.runs)

    class InferSession:
        def __init__(
            self, device_id: int, model_path: str, acl_json_path: str | None = None, debug: bool = False, loop: int = 1
        ) -> None:
            if device_id != 0:
                raise RuntimeError("[ACL: invalid device]")
            self.spec = recording.specs[Path(model_path).stem]

        def get_inputs(self) -> list[Any]:
            return [
                types.SimpleNamespace(name=renamed.get(given.name, given.name), shape=list(given.shape))
                for given in self.spec.inputs
            ]

        def get_outputs(self) -> list[Any]:
            return [
                types.SimpleNamespace(name=f"/Gemm_{i}:0:{made.name}", shape=[side + grow for side in made.shape])
                for i, made in enumerate(self.spec.outputs)
            ]

        def infer(
            self, feeds: list[Array], mode: str = "static", custom_sizes: int = 100000, out_array: bool = True
        ) -> list[Array]:
            name, given, made = next(pending)
            assert (name, mode) == (self.spec.name, "static")
            for array, expected, tensor in zip(feeds, given, self.spec.inputs, strict=True):
                assert array.flags.c_contiguous
                assert (array.dtype, array.shape) == (np.dtype(tensor.dtype), tensor.shape)
                np.testing.assert_array_equal(array, expected)
            return made

        def free_resource(self) -> None:
            freed.append(self.spec.name)

    interface = types.ModuleType("ais_bench.infer.interface")
    interface.InferSession = InferSession  # type: ignore[attr-defined]
    for name in ("ais_bench", "ais_bench.infer"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    sys.modules["ais_bench.infer"].interface = interface  # type: ignore[attr-defined]
    return freed


def test_it_feeds_the_device_what_onnxruntime_was_fed_and_makes_the_same_tokens(
    directory: Path, recorded: tuple[Recording, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    recording, expected = recorded
    # 21 tokens of the prompt in two calls, the second padded; then all but the last of those that are made
    assert [name for name, _, _ in recording.runs] == ["prefill_16"] * 2 + ["decode"] * 11
    freed = _install(monkeypatch, recording)
    with load_ascend(directory, soc="310B1") as runtime:
        assert list(runtime.generate(PROMPT, max_tokens=12, stop_ids=())) == expected
        assert (runtime.name, runtime.version, runtime.context_length) == ("ais_bench", "unknown", 64)
    assert sorted(freed) == ["decode", "prefill_16"]


def test_without_ais_bench_one_sentence_says_what_to_install(directory: Path) -> None:
    with pytest.raises(MissingExtra, match=r"needs the package 'ais_bench': install it with `pip install aclruntime"):
        load_ascend(directory, soc="310B1")


def test_graphs_that_are_missing_foreign_or_unloadable_are_named(
    directory: Path, recorded: tuple[Recording, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _install(monkeypatch, recorded[0])
    with pytest.raises(ArtifactError, match=r"310P3/decode\.om: not there\. Run atc_310P3\.sh"):
        load_ascend(directory, soc="310P3")
    with pytest.raises(CorruptArtifact, match=r"decode\.om: CANN cannot load it on device 3 \(\[ACL: invalid device"):
        load_ascend(directory, soc="310B1", device_id=3)
    _install(monkeypatch, recorded[0], grow=1)
    with pytest.raises(CorruptArtifact, match=r"output \('logits', \(2, 321\)\), the manifest says \('logits', \(1, 3"):
        load_ascend(directory, soc="310B1")
    _install(monkeypatch, recorded[0], swap=True)
    with pytest.raises(CorruptArtifact, match=r"input \('position_ids', \(1, 1\)\), the manifest says \('input_ids'"):
        load_ascend(directory, soc="310B1")


@pytest.mark.parametrize("name", ["ascend", "onnx", "llamacpp"])
def test_a_runtime_needs_no_torch(name: str) -> None:
    code = (
        f"import sys, eyas.runtimes.{name}; "
        "print(sorted({'torch', 'transformers', 'safetensors', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
