"""Export and bench stages in a recipe: what they unfold into, and what is refused."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, get_args

import pytest

from eyas.errors import ModelError, RecipeError
from eyas.export.formats import ONNX
from eyas.graph import build_graph
from eyas.recipe import BenchStage, ExportStage, Format, expand, parse_recipe
from eyas.recipe.edge import FIXED_SHAPES
from eyas.runtimes.llama_c import VARIABLE


def recipe(*stages: dict[str, Any], temperature: float = 0.0) -> dict[str, Any]:
    prepare = {"type": "prepare", "source": {"type": "arithmetic"}, "labelled": 4, "validation": 2, "test": 8}
    evaluate = {
        "type": "evaluate", "models": {"distilled": "student", "teacher": "teacher"},
        "sampling": {"temperature": temperature}, "divergence_prompts": 0,
    }  # fmt: skip
    return {
        "name": "r", "student": "builtin:nano-student", "teacher": "builtin:nano-teacher",
        "stages": [prepare, evaluate, *stages],
    }  # fmt: skip


def test_every_model_and_format_is_a_stage_of_its_own_and_bench_reads_them_all() -> None:
    made = expand(parse_recipe(recipe({"type": "export", "formats": ["gguf-f16", "ascend"]}, {"type": "bench"})))
    exports = [stage for stage in made if isinstance(stage, ExportStage)]
    assert [stage.name for stage in exports] == [
        "export.distilled.gguf-f16", "export.distilled.ascend", "export.teacher.gguf-f16", "export.teacher.ascend",
    ]  # fmt: skip
    assert exports[0].references() == {
        "evaluation": ("evaluate.distilled", "evaluation"),
        "model": ("student", "model"),
        "data": ("prepare", "examples"),
    }
    (bench,) = (stage for stage in made if isinstance(stage, BenchStage))
    assert bench.files == ("export.distilled.gguf-f16", "export.teacher.gguf-f16")  # ascend does not run here


def fingerprints(tmp_path: Path, **fields: Any) -> dict[str, str]:
    """Of the teacher's exports in every format but safetensors, whose card holds the whole recipe."""
    names = [name for name in get_args(Format) if name != "safetensors"]
    export = {"type": "export", "models": ["teacher"], "formats": names, **fields}
    nodes = build_graph(parse_recipe(recipe(export)), workspace=tmp_path)
    return {node.stage.formats[0]: node.fingerprint for node in nodes if isinstance(node.stage, ExportStage)}


@pytest.mark.parametrize(
    ("fields", "changed"),
    [
        ({"context_length": 64}, FIXED_SHAPES),
        ({"prefill_lengths": [8]}, FIXED_SHAPES),
        ({"max_loss": 0.5}, ()),
        ({"parity_prompts": 3}, set(get_args(Format)) - {"safetensors"}),
    ],
)
def test_what_does_not_decide_a_file_does_not_make_it_again(
    tmp_path: Path, fields: dict[str, Any], changed: Collection[str]
) -> None:
    before, after = fingerprints(tmp_path), fingerprints(tmp_path, **fields)
    assert {name for name in before if before[name] != after[name]} == set(changed)


def test_another_llama_cpp_makes_its_files_and_their_figures_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(*before: dict[str, str]) -> set[str]:
        return {name for name in before[0] if before[0][name] != before[1][name]}

    def found() -> dict[str, str]:
        exports = [{"type": "export", "models": ["teacher"], "name": name, "formats": [name]} for name in names]
        benches = [{"type": "bench", "exports": [name], "name": f"bench-{name}"} for name in names]
        nodes = build_graph(parse_recipe(recipe(*exports, *benches)), workspace=tmp_path)
        return {node.name: node.fingerprint for node in nodes}

    names = ["gguf-f16", "onnx-fp16"]
    monkeypatch.delenv(VARIABLE, raising=False)
    packaged = found()
    (tmp_path / "libllama.so").write_bytes(b"llama")
    (tmp_path / "libggml-cpu.so").write_bytes(b"ggml")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "libllama.so"))
    own = found()
    assert changed(packaged, own) == {"gguf-f16.teacher.gguf-f16", "bench-gguf-f16"}
    assert not changed(own, found())
    (tmp_path / "libggml-cpu.so").write_bytes(b"ggml, built for this processor")
    assert changed(own, found()) == changed(packaged, own)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "gone.so"))
    with pytest.raises(ModelError, match=f"gone.so: cannot be read.*unset {VARIABLE}"):
        found()
    names.remove("gguf-f16")
    assert not changed(found(), packaged)


def test_formats_of_fixed_shapes_are_those_whose_writer_reads_them() -> None:
    assert set(FIXED_SHAPES) == set(ONNX)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([{"type": "export", "evaluation": "other"}], "no evaluate stage of this recipe; evaluate stages: evaluate"),
        ([{"type": "export", "models": ["control"]}], "expected a model that 'evaluate' evaluates: distilled, teacher"),
        ([{"type": "bench"}], "no export stage of this recipe; export stages: none"),
        ([{"type": "export", "formats": ["gguf"]}], "formats"),
        ([{"type": "export", "model": "student"}], "`model` is worked out from the other stages"),
        ([{"type": "export"}, {"type": "bench", "files": ["x"]}], "`files` is worked out from the other stages"),
    ],
)
def test_what_cannot_be_exported_or_measured_is_a_recipe_error(stages: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe(recipe(*stages), where="r.yaml")


def test_drawn_answers_are_nothing_to_compare_a_file_with() -> None:
    with pytest.raises(RecipeError, match=r"r\.yaml: stage 'export'.*temperature 0\.7"):
        parse_recipe(recipe({"type": "export"}, temperature=0.7), where="r.yaml")
