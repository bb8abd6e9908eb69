"""Runs with files for a device: what is damaged is made again, what is linked stays, what is given is done."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from test_cli_evaluate import eyas

from eyas.estimates import BITS
from eyas.recipe import Format
from eyas.storage.artifacts import damaged_files, open_artifact, read_json

RECIPE = """
name: edge
student: builtin:nano-student
teacher: builtin:nano-teacher
thinking: qwen3
stages:
  - {type: prepare, source: {type: arithmetic, terms: [3]}, labelled: 4, validation: 2, test: 4}
  - type: evaluate
    models: {distilled: student}
    modes: [fast]
    sampling: {temperature: 0, max_completion_tokens: 4}
    divergence_prompts: 0
  - {type: export, models: [distilled], formats: [onnx-fp32], context_length: 96, prefill_lengths: [32]}
"""
EXPORT = "export.distilled.onnx-fp32"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose recipe exports graphs, and neither measures nor reports them."""
    root = tmp_path_factory.mktemp("edge")
    (root / "edge.yaml").write_text(RECIPE)
    assert eyas("run", root / "edge.yaml", "--out", root / "runs")[0] == 0
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "edge", symlinks=True))


def run_again(root: Path) -> int:
    return eyas("run", root / "edge.yaml", "--out", root / "runs")[0]


def test_a_damaged_file_within_an_exported_directory_is_made_again(root: Path) -> None:
    run = root / "runs" / "edge"
    weights = run / "exports" / "distilled-onnx-fp32" / "weights.bin"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert run_again(root) == 0
    assert weights.read_bytes() == whole
    artifact = open_artifact(run / read_json(run / "index.json")[EXPORT])
    assert "distilled-onnx-fp32/weights.bin" in artifact.files
    assert not damaged_files(artifact)


def test_a_file_cut_between_two_attempts_is_made_again(root: Path) -> None:
    run = root / "runs" / "edge"
    artifact = run / read_json(run / "index.json")[EXPORT]
    (artifact / "manifest.json").unlink()  # as after kill -9, before the stage's end
    (artifact / "distilled-onnx-fp32" / "decode.onnx").write_bytes(b"cut")
    assert run_again(root) == 0
    assert (artifact / "distilled-onnx-fp32" / "decode.onnx").stat().st_size > 1000


def test_running_one_stage_alone_keeps_the_links_to_the_files(root: Path) -> None:
    assert eyas("evaluate", root / "edge.yaml", "--out", root / "runs")[0] == 0
    assert (root / "runs" / "edge" / "exports" / "distilled-onnx-fp32" / "manifest.json").is_file()


def test_a_plan_knows_every_format(tmp_path: Path) -> None:
    assert set(BITS) == set(get_args(Format))
    said: dict[str, Any] = yaml.safe_load(RECIPE)
    said["stages"][2]["formats"] = list(get_args(Format))
    (tmp_path / "all.yaml").write_text(yaml.safe_dump(said))
    status, out, error = eyas("plan", tmp_path / "all.yaml", "--out", tmp_path)
    assert (status, error) == (0, "")
    assert all(f"export.distilled.{name}" in out for name in get_args(Format))
