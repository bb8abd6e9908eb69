"""The parity gate as a whole: what it holds, and which files it lets through."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from eyas.errors import ExportError
from eyas.export import checked
from eyas.export.checked import Checked, export_checked
from eyas.export.exported import Exported
from eyas.export.formats import Choices, export_as
from eyas.export.reference import Reference, reference_of
from eyas.runtimes.manifest import MANIFEST, file_spec
from eyas.storage.artifacts import read_json, write_json

PROMPTS = [[1, 19, 20, 13], [1, 30, 31, 32, 33], [1, 40, 41]]


@pytest.fixture
def export(tiny_student: Path, tmp_path: Path) -> Callable[[], Checked]:
    """Write a random model as graphs of 1, 8 and 124 tokens into `tmp_path`, compared on three short prompts."""
    choices = Choices(context_length=128, prefill_lengths=(8, 124))
    return lambda: export_checked(
        "onnx-fp32", tiny_student, directory=tmp_path, name="m", prompts=PROMPTS, choices=choices
    )


def test_one_prompts_log_probs_are_held_at_a_time(
    export: Callable[[], Checked], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[Reference]] = []

    def watched(*arguments: Any, **named: Any) -> Reference:
        assert not any(reference() for reference in made)
        found = reference_of(*arguments, **named)
        made.append(weakref.ref(found))
        return found

    monkeypatch.setattr(checked, "reference_of", watched)
    parity = export().parity
    assert len(made) == len(PROMPTS)
    assert parity is not None
    assert parity.positions == sum(map(len, PROMPTS)) + 3 * (64 - 1)  # the last token is not read


def spoil(directory: Path, graph: str) -> None:
    """Let a graph's logits be a tenth larger, and the manifest vouch for it."""
    model = onnx.load(directory / graph, load_external_data=False)
    (made,) = (node for node in model.graph.node if "logits" in node.output)
    made.output[:] = ["right"]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1.1), "more"))
    model.graph.node.append(onnx.helper.make_node("Mul", ["right", "more"], ["logits"]))
    onnx.save(model, directory / graph)
    manifest = read_json(directory / MANIFEST)
    manifest["files"][graph] = file_spec(directory / graph).model_dump()
    write_json(directory / MANIFEST, manifest)


@pytest.mark.parametrize(
    ("graph", "what"),
    [
        ("decode.onnx", "the graph of 1 token"),  # whose greedy tokens stay the same
        ("prefill_8.onnx", "the file"),
        ("prefill_124.onnx", "the graph of 124 tokens"),  # as long as no prompt
    ],
)
def test_a_single_broken_graph_fails_the_gate(
    export: Callable[[], Checked], monkeypatch: pytest.MonkeyPatch, graph: str, what: str
) -> None:
    def spoilt(*arguments: Any, **named: Any) -> Exported:
        made = export_as(*arguments, **named)
        spoil(made.files[0].parent, graph)
        return made

    monkeypatch.setattr(checked, "export_as", spoilt)
    with pytest.raises(ExportError, match=f"^{what} is another model than the one it was made from") as error:
        export()
    of_a_graph = what != "the file"
    assert ("No finer format mends that" in str(error.value)) is of_a_graph
    assert ("greedy tokens agree" in str(error.value)) is not of_a_graph


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_file_has_its_name_only_once_it_has_passed(
    export: Callable[[], Checked], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def fails(*_: object) -> None:
        assert not (tmp_path / "m-onnx-fp32").exists()  # nor would it after kill -9
        raise error

    monkeypatch.setattr(checked, "parity_with", fails)
    with pytest.raises(error):
        export()
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    made = export()
    assert made.path == tmp_path / "m-onnx-fp32"
    assert all(file.is_file() for file in made.exported.files)
