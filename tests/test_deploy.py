"""From a finished run to files that were compared, asked and measured; what fails is told and keeps the rest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_cli_evaluate import eyas

from eyas.deploy import edge_recipe
from eyas.errors import ExportError
from eyas.export import checked
from eyas.parity import Limits
from eyas.pipeline import run_recipe
from eyas.records import SequenceRecord
from eyas.report.deployment_console import ratio_lines
from eyas.stages.export import against_model, require_accuracy
from eyas.storage.artifacts import open_artifact, read_json
from eyas.storage.shards import read_records

RECIPE = """
name: edge
student: builtin:nano-student
teacher: builtin:nano-teacher
thinking: qwen3
stages:
  - {type: prepare, source: {type: arithmetic, terms: [3]}, labelled: 4, validation: 2, test: 40}
  - type: evaluate
    models: {distilled: student, teacher: teacher}
    sampling: {temperature: 0, max_completion_tokens: 48}
    divergence_prompts: 0
  - type: report
"""
EVALUATED = ("prepare", "evaluate.distilled", "evaluate.teacher", "report")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, deployed as F16 and Q8_0, and its student as graphs for Ascend."""
    root = tmp_path_factory.mktemp("deployed")
    (root / "edge.yaml").write_text(RECIPE)
    assert eyas("run", str(root / "edge.yaml"), "--out", str(root / "runs"))[0] == 0
    asked = [word for name in ("gguf-f16", "gguf-q8_0", "ascend") for word in ("--format", name)]
    status, out, error = eyas("deploy", str(root / "runs" / "edge"), *asked, "--rounds", "2", "--max-rss", "1GiB")
    assert (status, error) == (0, "")
    (root / "said.txt").write_text(out)
    return root


@pytest.fixture
def rows(workspace: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = read_json(workspace / "runs" / "edge" / "summary.json")["deployment"]
    return found


def test_every_file_has_its_own_accuracy_parity_and_figures(rows: list[dict[str, Any]], workspace: Path) -> None:
    assert [(row["model"], row["format"]) for row in rows] == [
        (role, name) for role in ("distilled", "teacher") for name in ("gguf-f16", "gguf-q8_0", "ascend")
    ]
    for row in rows:
        assert (workspace / "runs" / "edge" / "exports" / row["file"]).exists()
        assert row["parity"]["kl_nats"] < 0.003
        if row["format"] == "ascend":
            assert (row["accuracy"], row["tpot_s"]) == ({}, None)  # nothing here runs an .om file
            continue
        assert row["accuracy"]["reasoning"]["n"] == 40
        assert row["peak_rss_bytes"]["value"] > row["bytes"]
        assert 0 < row["tpot_s"]["low"] <= row["tpot_s"]["value"] <= row["tpot_s"]["high"]
    student, teacher = rows[0], rows[3]
    assert student["teacher"]["size"] == teacher["bytes"] / student["bytes"] > 4
    assert rows[1]["bits_per_weight"] < 9 < 15 < rows[0]["bits_per_weight"] < 17


def test_an_f16_file_answers_what_its_model_answers(workspace: Path) -> None:
    run = workspace / "runs" / "edge"
    index = read_json(run / "index.json")

    def answers(stage: str) -> dict[tuple[str, str], list[int]]:
        records = read_records(run / index[stage] / "predictions", kind=SequenceRecord)
        return {(item.mode, item.example_id): item.completion_ids for item in records}

    model, file = answers("evaluate.teacher"), answers("export.teacher.gguf-f16")
    assert len(file) == 80
    same = sum(file[key] == model[key] for key in file)
    assert same >= 78  # near ties may fall the other way


def test_the_command_says_what_to_ship_and_the_report_shows_the_table(workspace: Path) -> None:
    said = (workspace / "said.txt").read_text()
    assert "Within peak RSS ≤ 1,024 MiB: ship Teacher gguf-" in said
    assert "Distilled beside the teacher, both gguf-f16: 9.8 times smaller, TPOT" in said
    page = (workspace / "runs" / "edge" / "report.html").read_text()
    assert 'id="deployment"' in page
    assert "not run on hardware" in page
    assert page.count("<svg") >= 4
    kept = yaml.safe_load((workspace / "runs" / "edge" / "recipe.yaml").read_text())
    assert [stage["type"] for stage in kept["stages"]] == ["prepare", "evaluate", "export", "bench", "report"]


def test_deployed_again_nothing_is_made_again(workspace: Path) -> None:
    run = workspace / "runs" / "edge"
    before = {path: path.stat().st_mtime_ns for path in (workspace / "runs" / "artifacts").rglob("*.gguf")}
    status, out, _ = eyas("deploy", str(run), "--max-ttft", "1us")
    assert status == 0
    assert "no measured file fits" in out
    assert {path: path.stat().st_mtime_ns for path in (workspace / "runs" / "artifacts").rglob("*.gguf")} == before


def test_an_unfinished_run_is_not_trained_behind_the_users_back(workspace: Path, tmp_path: Path) -> None:
    run = workspace / "runs" / "edge"
    elsewhere = tmp_path / "runs" / "edge"
    elsewhere.mkdir(parents=True)
    (elsewhere / "resolved.json").write_text((run / "resolved.json").read_text())
    status, _, error = eyas("deploy", str(elsewhere))
    assert status == 1
    assert "evaluate.distilled, evaluate.teacher not there" in error
    assert "eyas run" in error
    status, _, error = eyas("deploy", str(tmp_path))
    assert (status, error.startswith("ArtifactError")) == (1, True)


def test_a_file_too_far_from_its_model_fails_its_stage_with_the_numbers(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = workspace / "runs" / "edge"
    text = (run / "recipe.yaml").read_text()
    said = yaml.safe_load(text)
    said["stages"][2]["formats"] = ["gguf-q4_0"]
    (run / "resolved.json").write_text(json.dumps(said))
    recipe, changed = edge_recipe(run, formats=(), examples=None, rounds=None, context_length=None)
    assert not changed
    monkeypatch.setattr(checked, "limits_of", lambda _: Limits(error_nats=9, kl_nats=1e-6, gap_nats=9))
    with pytest.raises(ExportError, match=r"mean KL .* nats over \d+ positions \(allowed 1e-06\)"):
        run_recipe(recipe, recipe_text=text, workspace=run.parent, progress=_silent)  # type: ignore[arg-type]
    kept = read_json(run / "index.json")
    assert open_artifact(run / kept["evaluate.distilled"]).facts["role"] == "distilled"


def _silent(*_: object) -> Any:
    from contextlib import nullcontext

    from eyas.storage.context import SilentProgress

    return nullcontext(SilentProgress())


def sequences(grades: str, mode: str = "fast") -> Iterator[SequenceRecord]:
    for number, grade in enumerate(grades):
        yield SequenceRecord(
            example_id=f"{number}", sample=0, mode=mode, source="student", prompt_ids=[1], completion_ids=[2],  # type: ignore[arg-type]
            finish_reason="stop", grade=float(grade),
        )  # fmt: skip


def test_a_file_fails_where_it_is_shown_to_lose_more_than_allowed() -> None:
    model = list(sequences("1" * 200))
    (lost,) = against_model(list(sequences("1" * 180 + "0" * 20)), model).values()
    assert lost.difference == pytest.approx(-0.1)  # 20 of 200
    with pytest.raises(
        ExportError, match=r"distilled as gguf-q4_0: -10\.0 points of accuracy in fast mode \[-14.*allowed -2"
    ):
        require_accuracy(lost, what="distilled as gguf-q4_0", mode="fast", max_loss=0.02)
    require_accuracy(lost, what="", mode="fast", max_loss=0.15)
    (little,) = against_model(
        list(sequences("1" * 194 + "0" * 6)), model
    ).values()  # −3 points, but not surely below −2
    require_accuracy(little, what="", mode="fast", max_loss=0.02)


@pytest.mark.parametrize(("losses", "n"), [(1, 1), (4, 40), (5, 10)])
def test_a_handful_of_losses_that_chance_explains_fails_no_file(losses: int, n: int) -> None:
    (few,) = against_model(list(sequences("0" * losses + "1" * (n - losses))), list(sequences("1" * n))).values()
    assert few.p_value > 0.05  # 2 / 2^4 and 2 / 2^5
    require_accuracy(few, what="", mode="fast", max_loss=0.02)


def test_only_examples_that_the_file_was_asked_count() -> None:
    found = against_model(list(sequences("11")), list(sequences("10" + "1" * 50)))
    assert (found["fast"].n, found["fast"].difference) == (2, 0.5)


def test_without_a_teacher_there_is_nothing_to_be_smaller_than(rows: list[dict[str, Any]]) -> None:
    assert len(list(ratio_lines(rows))) == 3
    assert not list(ratio_lines([row for row in rows if row["model"] == "teacher"]))
