"""Fingerprints: what changes one, what does not, and when a node counts as done."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest

from eyas.errors import DataError, TrainingError
from eyas.graph import Node, build_graph
from eyas.pipeline import run_recipe
from eyas.recipe import Recipe, parse_recipe
from eyas.storage.artifacts import Artifact
from eyas.storage.context import SilentProgress


def rows(path: Path, *, plus: int = 0) -> Path:
    lines = [{"question": f"{n}+1", "answer": str(n + 1 + plus)} for n in range(40)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def recipe(student: Path, data: Path, *, source: dict[str, object] | None = None) -> Recipe:
    source = source or {"type": "file", "path": str(data)}
    prepare = {"type": "prepare", "source": source, "labelled": 20, "unlabelled": 0, "validation": 2, "test": 2}
    return parse_recipe(
        {"name": "r", "student": str(student), "stages": [prepare, {"type": "sft", "modes": {"fast": 1}}]}
    )


def graph(student: Path, data: Path, runs: Path) -> dict[str, Node]:
    return {node.name: node for node in build_graph(recipe(student, data), workspace=runs)}


def test_a_data_file_is_what_it_holds_not_where_it_lies(tiny_student: Path, tmp_path: Path) -> None:
    first = graph(tiny_student, rows(tmp_path / "a" / "train.jsonl"), tmp_path)["prepare"]
    moved = graph(tiny_student, rows(tmp_path / "b" / "train.jsonl"), tmp_path)["prepare"]
    edited = graph(tiny_student, rows(tmp_path / "a" / "train.jsonl", plus=1), tmp_path)["prepare"]
    assert first.fingerprint == moved.fingerprint != edited.fingerprint
    with pytest.raises(DataError, match=r"nowhere.jsonl: cannot be read"):
        graph(tiny_student, tmp_path / "nowhere.jsonl", tmp_path)


def test_which_files_are_for_testing_is_part_of_the_fingerprint(tiny_student: Path, tmp_path: Path) -> None:
    a, b, c = (str(rows(tmp_path / name, plus=plus)) for plus, name in enumerate("abc"))

    def of(*parts: dict[str, str]) -> str:
        mixed = {"type": "mixture", "parts": [{"share": 1, "source": {"type": "file", **part}} for part in parts]}
        nodes = build_graph(recipe(tiny_student, Path(a), source=mixed), workspace=tmp_path)
        return next(node.fingerprint for node in nodes if node.name == "prepare")

    assert of({"path": a, "test_path": b}, {"path": c}) != of({"path": a}, {"path": b, "test_path": c})


def test_a_model_is_its_weights_not_its_path(tiny_student: Path, tmp_path: Path) -> None:
    data = rows(tmp_path / "train.jsonl")
    copy = shutil.copytree(tiny_student, tmp_path / "copy", symlinks=False)
    assert (
        graph(tiny_student, data, tmp_path)["student"].fingerprint == graph(copy, data, tmp_path)["student"].fingerprint
    )


def test_a_healed_stage_keeps_the_seconds_it_took(tiny_student: Path, tmp_path: Path) -> None:
    def run() -> Artifact:
        done = run_recipe(
            recipe(tiny_student, rows(tmp_path / "train.jsonl")),
            recipe_text="",
            workspace=tmp_path / "runs",
            progress=lambda *_: nullcontext(SilentProgress()),
            wanted=lambda node: node.type == "prepare",
        )
        return done["prepare"]

    made = run()
    manifest = made.path / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"seconds": 500.0}))
    (made.path / "dropped.jsonl").unlink()
    assert run().seconds > 500.0
    assert (made.path / "dropped.jsonl").is_file()


def test_eyas_run_refuses_to_be_one_of_several_processes(
    tiny_student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match="one process and cannot run under torchrun"):
        run_recipe(
            recipe(tiny_student, rows(tmp_path / "train.jsonl")),
            recipe_text="",
            workspace=tmp_path / "runs",
            progress=lambda *_: nullcontext(SilentProgress()),
        )


def test_a_linked_model_that_is_gone_is_made_again(tiny_student: Path, tmp_path: Path) -> None:
    data, runs = rows(tmp_path / "train.jsonl"), tmp_path / "runs"
    here, there = tmp_path / "here", tmp_path / "there"
    shutil.copytree(tiny_student, here)

    def run(student: Path) -> None:
        run_recipe(
            recipe(student, data),
            recipe_text="",
            workspace=runs,
            progress=lambda *_: nullcontext(SilentProgress()),
            wanted=lambda node: node.type == "prepare",
        )

    run(here)
    assert graph(here, data, runs)["student"].finished() is not None
    here.rename(there)
    assert graph(there, data, runs)["student"].finished() is None
    run(there)
    assert graph(there, data, runs)["student"].finished() is not None
