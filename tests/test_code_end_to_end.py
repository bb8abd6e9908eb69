"""`grader: code` through `eyas run` and `eyas evaluate`: every verdict is what running the answer says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_cli_evaluate import eyas

from eyas.records import SequenceRecord
from eyas.storage.shards import read_records

RECIPE = """
name: code
student: builtin:nano-student
stages:
  - {type: prepare, source: {type: file, path: DATA, grader: code}, labelled: 20, unlabelled: 0, validation: 4, test: 8}
  - {type: sft, modes: {fast: 1}, training: {batch_size: 8, epochs: 1, learning_rate: 0.001}}
  - {type: evaluate, models: {sft: sft}, modes: [fast], sampling: {max_completion_tokens: 32}}
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Tasks whose test any program passes: a number is one, what the student writes else is not."""
    rows = [
        {"task_id": n, "text": f"{n}+{n}=", "code": f"{2 * n}", "test_list": ["assert 1 == 1"]} for n in range(10, 70)
    ]
    path = tmp_path / "code.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def runs_through(program: str) -> bool:
    try:
        exec(program, {"__builtins__": {}})
    except Exception:  # noqa: BLE001
        return False
    return True


def agree(predictions: Path) -> list[SequenceRecord]:
    records = list(read_records(predictions, kind=SequenceRecord))
    for record in records:
        runs = record.finish_reason == "stop" and runs_through(record.answer or "")
        assert record.grade == float(runs), record
    return records


def test_run_trains_and_grades_programs(data: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.replace("DATA", str(data)))
    code, out, err = eyas("run", recipe, "--out", tmp_path / "runs")
    assert code == 0, out + err
    (predictions,) = (tmp_path / "runs" / "artifacts").glob("evaluate-*/predictions")
    assert len(agree(predictions)) > 1


def test_evaluate_grades_programs(data: Path, tmp_path: Path) -> None:
    lines = data.read_text().splitlines(keepends=True)[:16]
    data.write_text("".join(lines))
    arguments = ("--grader", "code", "--max-tokens", "32", "--modes", "fast", "--out", tmp_path / "runs")
    code, out, err = eyas("evaluate", "builtin:nano-student", "--data", data, *arguments)
    assert code == 0, out + err
    (predictions,) = (tmp_path / "runs" / "evaluations").glob("*/predictions")
    assert {record.grade for record in agree(predictions)} == {0.0, 1.0}
