"""Ablations: the grid, what its recipes keep, and the page over a real one on a tiny pair."""

from __future__ import annotations

import json
import re
import threading
import time
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from test_end_to_end import eyas

from eyas import ablation
from eyas.errors import RecipeError
from eyas.recipe import Recipe, load_recipe, parse_recipe
from eyas.recipe.variants import variant_recipe, variants_of
from eyas.storage.locks import locked

BASE = """
name: t
student: builtin:nano-student
teacher: builtin:nano-teacher
stages:
  - {type: prepare, source: {type: arithmetic}, labelled: 100, unlabelled: 100}
  - {type: sft}
  - {type: distill, model: sft, rounds: 2}
  - {type: sft, name: seqkd, model: sft, sequences: distill.1.rollout}
  - {type: distill, name: other, model: sft}
  - {type: evaluate, divergence_prompts: 0, models: {sft: sft, distilled: distill}}
  - {type: report}
"""


def recipe(**changes: object) -> Recipe:
    return parse_recipe(yaml.safe_load(BASE) | changes)


def test_a_grid_is_the_product_of_its_axes_the_last_varying_fastest() -> None:
    found = variants_of(recipe(), vary=["stages.distill.prefix=student,teacher", "stages.distill.loss.lambda=0.5,1"])
    assert [variant.label for variant in found] == [
        "prefix=student, lambda=0.5", "prefix=student, lambda=1", "prefix=teacher, lambda=0.5",
        "prefix=teacher, lambda=1",
    ]  # fmt: skip
    assert found[1].changes == {"stages.distill.prefix": "student", "stages.distill.loss.lambda": 1}
    assert found[1].name == "prefix-student-lambda-1"


def test_one_field_of_two_stages_is_told_apart_and_values_may_be_mappings() -> None:
    found = variants_of(recipe(), vary=["stages.sft.modes={fast: 1},{reasoning: 3, fast: 1}", "stages.seqkd.modes={}"])
    assert found[0].changes["stages.sft.modes"] == {"fast": 1}
    assert found[1].label.startswith("stages.sft.modes={'reasoning': 3, 'fast': 1}, stages.seqkd.modes=")
    assert len({variant.name for variant in found}) == 2


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        (["name"], "expected key=value,value"),
        (["name="], "expected key=value,value"),
        (["name=a", "name=b"], "each key once"),
        (["name=a,a"], "name=a is given twice"),
        (["seed=0,1"], "Give --seeds alone"),
    ],
)
def test_a_wrong_vary_is_a_clear_error(vary: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        variants_of(recipe(), vary=vary)


def test_names_of_a_grid_are_plain_short_and_their_own_and_only_takes_a_label_too() -> None:
    odd = ["../../etc", "é", "ü", "-1", "1", "x" * 300, "x" * 301]
    found = variants_of(recipe(), vary=[f"description={','.join(odd)}"])
    names = [variant.name for variant in found]
    assert len(set(names)) == len(odd)
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,90}", name) for name in names)
    (one,) = variants_of(recipe(), vary=["description=a,b"], only=["description=b"])
    assert one.name == "description-b"


def test_a_variant_keeps_only_what_its_evaluations_read() -> None:
    data = yaml.safe_load(BASE)
    (plain,) = variants_of(recipe())
    found = variant_recipe(data, plain, seed=3, where="t", limit=None)
    assert [stage.name for stage in found.stages] == ["prepare", "sft", "distill", "evaluate", "report"]
    assert (found.name, found.seed) == ("t-seed3", 3)
    (seqkd,) = variants_of(recipe(), vary=["stages.evaluate.models={distilled: seqkd}"])
    found = variant_recipe(data, seqkd, seed=0, where="t", limit=None)
    assert [stage.name for stage in found.stages] == ["prepare", "sft", "distill", "seqkd", "evaluate", "report"]


def test_a_variant_keeps_the_model_that_only_measures_difficulty() -> None:
    data = yaml.safe_load(BASE)
    data["stages"][2]["curriculum"] = {"weight": "frontier", "difficulty": {"model": "judge"}}
    data["stages"].insert(2, {"type": "sft", "name": "judge"})
    found = variant_recipe(data, variants_of(parse_recipe(data))[0], seed=0, where="t", limit=None)
    assert [stage.name for stage in found.stages] == ["prepare", "sft", "judge", "distill", "evaluate", "report"]


def test_a_variant_that_is_no_recipe_is_named() -> None:
    (wrong,) = variants_of(recipe(), vary=["stages.distill.prefx=teacher"])
    with pytest.raises(RecipeError, match=r"variant 'prefx=teacher'(.|\n)*unknown key 'prefx'"):
        variant_recipe(yaml.safe_load(BASE), wrong, seed=0, where="t", limit=None)


def test_without_an_evaluation_there_is_nothing_to_ablate() -> None:
    data = yaml.safe_load(BASE)
    data["stages"] = data["stages"][:2]
    with pytest.raises(RecipeError, match="nothing is evaluated"):
        variant_recipe(data, variants_of(parse_recipe(data))[0], seed=0, where="t", limit=None)


def test_a_grid_runs_shares_resumes_and_outlives_a_failure(small_recipe: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    small = ["ablate", small_recipe, "--out", runs, "--seeds", "1", "--set", "stages.distill.rounds=1"]
    small += ["--set", "stages.evaluate.models={sft: sft, distilled: distill, teacher: teacher}"]
    small += ["--set", "stages.evaluate.divergence_prompts=0", "--set", "stages.distill.curriculum={}"]
    small += ["--vary", "stages.distill.training.learning_rate=3.0e-3,1.0e+30,1.0e-3"]
    plan = eyas(*small, "--plan").stdout
    assert "small: 3 variants, 1 seed, 3 runs" in plan
    assert not runs.exists()

    done = eyas(*small, check=False)
    assert done.returncode == 1
    assert "FAILED small-learning_rate-1-0e-30-seed0: NonFiniteLoss" in done.stdout
    result = json.loads((runs / "small-ablation" / "ablation.json").read_text())
    assert [(item["variant"], item["seed"]) for item in result["failures"]] == [("learning_rate-1-0e-30", 0)]

    # Two of three variants finished. All share SFT, rollouts and scores; what nothing evaluates is not made.
    kinds = [path.parent.name.partition("-")[0] for path in runs.glob("artifacts/*/manifest.json")]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "model": 2, "prepare": 1, "sft": 1, "rollout": 1, "score": 1, "distill": 2, "evaluate": 4, "report": 2,
    }  # fmt: skip
    shared = {item["role"]: item["variants"] for item in result["accuracy"]}
    assert shared["teacher"] == ["learning_rate=3.0e-3", "learning_rate=1.0e-3"]
    assert [item["role"] for item in result["accuracy"] if item["mode"] == "fast"].count("distilled") == 2
    assert {(item["a"], item["b"]) for item in result["differences"]} == {
        ("learning_rate-1-0e-3.distilled", "learning_rate-3-0e-3.distilled")
    }

    page = (runs / "small-ablation" / "ablation.html").read_text()
    assert "NonFiniteLoss" in page
    assert page.count("<svg") == 2
    assert "http" not in page.replace("http-equiv", "")
    assert "| learning_rate=1.0e-3 − learning_rate=3.0e-3 | fast |" in (runs / "small-ablation/ablation.md").read_text()

    # The same command makes nothing anew but tries what failed; the rest of the grid alone is complete.
    again = eyas(*small, "--only", "learning_rate-3-0e-3", "--only", "learning_rate-1-0e-3")
    assert "done in" not in again.stdout
    assert load_recipe(runs / "small-learning_rate-3-0e-3-seed0" / "recipe.yaml").seed == 0


def test_what_another_process_makes_is_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ablation, "WAIT_S", 0.05)
    held, run = threading.Event(), tmp_path / "t"

    def other() -> None:
        with locked(run, purpose="another ablation"):
            held.set()
            time.sleep(0.3)

    thread = threading.Thread(target=other)
    thread.start()
    assert held.wait(5)
    data = yaml.safe_load(BASE)
    data["stages"] = [data["stages"][0], {"type": "sft", "training": {"steps": 1, "batch_size": 2}}]
    made = ablation._run(parse_recipe(data), workspace=tmp_path, console=Console())
    thread.join()
    assert made["sft"].stage == "sft"
    assert capsys.readouterr().out.count("Waiting: ") == 1


def test_one_recipe_over_seeds_says_what_its_runs_say(small_recipe: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    settings = ("--set", "stages.evaluate.models={base: student, sft: sft}")
    eyas("ablate", small_recipe, "--out", runs, "--seeds", "2", "--limit", "8", *settings)
    result = json.loads((runs / "small-limit8-ablation" / "ablation.json").read_text())
    by_seed = [json.loads((runs / f"small-limit8-seed{seed}" / "summary.json").read_text()) for seed in (0, 1)]
    for mode in ("reasoning", "fast"):
        own = [found["models"]["sft"]["accuracy"][mode]["value"] for found in by_seed]
        (found,) = [item for item in result["accuracy"] if (item["role"], item["mode"]) == ("sft", mode)]
        assert list(found["per_seed"].values()) == own
        assert found["value"] == pytest.approx(sum(own) / 2)
        assert found["low"] <= found["value"] <= found["high"]
        assert (found["n"], found["seconds"] > 0) == (16, True)
    assert result["differences"] == []
    assert {(item["a"], item["b"], item["n"]) for item in result["within"]} == {("sft", "base", 16)}
    assert "| SFT − Base | reasoning |" in (runs / "small-limit8-ablation" / "ablation.md").read_text()


def test_the_papers_ablation_runs_in_small(tmp_path: Path) -> None:
    path, runs = Path(__file__).parents[1] / "recipes" / "paper-ablation.yaml", tmp_path / "runs"
    few = ("by-student", "sft-fast-only")
    only = [word for name in few for word in ("--only", name)]
    small = ("ablate", path, "--out", runs, "--seeds", "1", "--limit", "8", "--set", "execution.threads=1", *only)
    eyas(*small)
    result = json.loads((runs / "paper-ablation-limit8-ablation" / "ablation.json").read_text())
    assert [item["name"] for item in result["variants"]] == list(few)
    verdicts = {(item["a"], item["b"]): item["verdict"] for item in result["claims"]}
    assert verdicts["by-student.sft", "sft-fast-only"] != "not run"
    assert verdicts["by-student", "by-teacher"] == "not run"
    assert ("sft-fast-only.sft", "by-student.sft") in {(item["a"], item["b"]) for item in result["differences"]}
    plan = eyas(*small, "--plan", "--only", "by-label").stdout
    assert "5 artifacts to do of 21, about " in plan  # labels, their scores, distillation on them, evaluation, report
