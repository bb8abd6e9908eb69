"""A recipe whose student is pruned by importance: what decides its fingerprint, and where the choice can be read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from eyas import graph
from eyas.errors import RecipeError
from eyas.graph import build_graph
from eyas.pipeline import run_recipe
from eyas.planning import print_plan
from eyas.recipe import ModelSpec, Recipe, load_recipe, parse_recipe
from eyas.storage.context import SilentProgress

PREPARE = {"type": "prepare", "source": {"type": "arithmetic"}, "labelled": 20, "validation": 2, "test": 4}
SAMPLING = {"temperature": 0, "max_completion_tokens": 8}
STAGES = [
    PREPARE,
    {"type": "evaluate", "models": {"base": "student"}, "sampling": SAMPLING, "divergence_prompts": 0},
    {"type": "report", "transcripts": 1},
]


def recipe(prune: Mapping[str, Any] | None, **fields: Any) -> Recipe:
    student: dict[str, Any] = {"from": "builtin:nano-teacher", "keep_layers": 2}
    student |= {} if prune is None else {"prune": prune}
    return parse_recipe({"name": "pruned", "student": student, "thinking": "qwen3", "stages": STAGES} | fields)


def fingerprint(wanted: Recipe, tmp_path: Path) -> str:
    return build_graph(wanted, workspace=tmp_path)[0].fingerprint


def rows(path: Path, *, plus: int = 0) -> dict[str, object]:
    lines = [{"question": f"{n}+1", "answer": str(n + 1 + plus)} for n in range(40)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {"type": "file", "path": str(path)}


def test_the_fingerprint_follows_what_is_measured_and_nothing_else(tmp_path: Path) -> None:
    by = {"by": "perplexity"}
    first = fingerprint(recipe(by | {"data": rows(tmp_path / "a" / "train.jsonl")}), tmp_path)
    moved = fingerprint(recipe(by | {"data": rows(tmp_path / "b" / "train.jsonl")}), tmp_path)
    assert moved == first
    assert fingerprint(recipe(by | {"data": rows(tmp_path / "b" / "train.jsonl")}, seed=7), tmp_path) == first
    others = [
        recipe(by | {"data": rows(tmp_path / "b" / "train.jsonl", plus=1)}),
        recipe(by | {"data": rows(tmp_path / "a" / "train.jsonl"), "examples": 3}),
        recipe(by | {"data": rows(tmp_path / "a" / "train.jsonl")}, thinking="pangu"),
        recipe({"by": "block_influence", "data": rows(tmp_path / "a" / "train.jsonl")}),
        recipe(by),
        recipe(None),
    ]
    found = [fingerprint(other, tmp_path) for other in others]
    assert len({first, *found}) == len(others) + 1


def test_the_version_of_making_models_is_hashed_from_the_next_one_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fingerprint(recipe(None), tmp_path)
    monkeypatch.setattr(graph, "UNHASHED_VERSIONS", graph.MODEL_VERSION - 1)
    now = fingerprint(recipe(None), tmp_path)
    monkeypatch.setattr(graph, "MODEL_VERSION", graph.MODEL_VERSION + 1)
    assert len({before, now, fingerprint(recipe(None), tmp_path)}) == 3


def test_without_data_it_is_the_source_of_the_first_prepare_stage(tmp_path: Path) -> None:
    named = recipe({"by": "perplexity", "data": PREPARE["source"]})
    assert fingerprint(named, tmp_path) == fingerprint(recipe({"by": "perplexity"}), tmp_path)
    with pytest.raises(RecipeError, match="nothing to measure on: the recipe has no prepare stage"):
        recipe({"by": "perplexity"}, stages=[{"type": "report"}])


def test_a_model_without_prune_is_written_as_it_was_before_there_was_any() -> None:
    spec = ModelSpec.model_validate({"from": "builtin:nano-teacher", "keep_layers": 2})
    assert set(spec.model_dump(by_alias=True)) == {"from", "keep_layers", "config", "tokenizer", "revision", "dtype"}


def test_prune_without_a_number_of_layers_is_refused() -> None:
    with pytest.raises(RecipeError, match="chooses layers, but not how many: add `keep_layers`"):
        recipe(None, student={"from": "builtin:nano-teacher", "prune": {"by": "perplexity"}})


def test_a_smoke_run_measures_on_few_examples(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(json.dumps(recipe({"by": "perplexity"}).model_dump(by_alias=True, exclude_unset=True)))
    student = load_recipe(path, limit=3).student
    assert student.prune is not None
    assert student.prune.examples == 3


def test_what_was_measured_is_in_the_manifest_the_plan_and_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = recipe({"by": "angular_distance", "examples": 6})
    print_plan(wanted, workspace=tmp_path)
    assert "2 layers, which ones is decided by angular_distance when it runs, on at most 6 examples" in (
        capsys.readouterr().out.replace("\n", " ")
    )
    done = run_recipe(wanted, recipe_text="", workspace=tmp_path, progress=lambda *_: nullcontext(SilentProgress()))
    found = done["student"].facts["pruning"]
    assert sorted([*found["kept"], *found["removed"]]) == list(range(len(found["kept"]) + len(found["removed"])))
    assert (len(found["kept"]), found["by"], found["sequences"]) == (2, "angular_distance", 6)
    assert min(found["measured"]) == found["measured"][found["removed"][0]]
    page = (tmp_path / "pruned" / "report.html").read_text()
    removed = ", ".join(str(layer) for layer in found["removed"])
    total = len(found["kept"]) + len(found["removed"])
    assert f"Layers taken out of the student, of 0 to {total - 1}: {removed}, chosen by angular distance on 6" in page
    print_plan(wanted, workspace=tmp_path)
    kept = ", ".join(str(layer) for layer in found["kept"])
    assert f"chosen by angular_distance on 6 examples: {kept}" in capsys.readouterr().out.replace("\n", " ")
