"""`--set`: what it reaches, and what it says when it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from eyas.errors import RecipeError
from eyas.recipe import PrepareStage, Recipe, SftStage, load_recipe

RECIPES = Path(__file__).parents[1] / "recipes"
BASE = """
name: t
student: builtin:nano-student
teacher: {from: builtin:nano-teacher}
thinking: qwen3
seed: 4
stages:
  - type: prepare
    source: {type: mixture, parts: [{share: 1, source: {type: arithmetic, terms: [2, 3]}}]}
  - {type: sft}
"""


def load(tmp_path: Path, *overrides: str, text: str = BASE) -> Recipe:
    path = tmp_path / "t.yaml"
    path.write_text(text)
    return load_recipe(path, overrides=overrides)


def test_an_override_reaches_one_stage_and_not_the_others_that_share_its_yaml_anchor() -> None:
    recipe = load_recipe(RECIPES / "quickstart.yaml", overrides=["stages.sft.training.epochs=3"])
    epochs = {stage.name: stage.training.epochs for stage in recipe.stages if isinstance(stage, SftStage)}
    assert epochs["sft"] == 3
    assert epochs["sft-reasoning"] == 16


def test_a_model_given_as_a_string_can_be_changed_in_part(tmp_path: Path) -> None:
    recipe = load(tmp_path, "student.keep_layers=2", "teacher.dtype=bfloat16")
    assert (recipe.student.from_, recipe.student.keep_layers) == ("builtin:nano-student", 2)
    assert recipe.teacher is not None
    assert (recipe.teacher.from_, recipe.teacher.dtype) == ("builtin:nano-teacher", "bfloat16")


def test_what_is_absent_or_empty_is_made(tmp_path: Path) -> None:
    overrides = ("execution.threads=1", "stages.prepare.off_task.type=words", "stages.sft.training.steps=7")
    recipe = load(tmp_path, *overrides, text=BASE + "execution:\n")
    prepare, sft = recipe.stages
    assert isinstance(prepare, PrepareStage)
    assert isinstance(sft, SftStage)
    assert recipe.execution.threads == 1
    assert prepare.off_task is not None
    assert sft.training.steps == 7


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("thinking.open=x", "`thinking` is 'qwen3', a plain value without keys; set it whole, --set thinking=VALUE"),
        ("seed.x=1", "`seed` is 4, a plain value without keys; set it whole, --set seed=VALUE"),
        ("description.x=1", "description: Input should be a valid string"),
        ("seed=[1", "not valid YAML"),
        ("seed=2025-02-30", "not valid YAML: day is out of range"),
        ("seed", "expected key=value"),
        ("=1", "expected key=value"),
        ("stages..steps=1", "expected key=value"),
        ("stages.sft=1", "'sft' names a whole entry of a list"),
        ("stages.stf.select=best", "nothing in `stages` is called 'stf'; did you mean 'sft'?"),
        ("stages.nothing.select=best", "nothing in `stages` is called 'nothing'; found: prepare, sft"),
        ("stages.prepare.source.parts.0.share=2", "nothing in `stages.prepare.source.parts` is called '0'"),
        ("stages.prepare.source.parts=0", "parts: Input should be a valid tuple"),
        ("stages.sft.select.x.y=1", "stages.1.sft.select: Input should be 'last' or 'best'"),
        ("student=[1]", "student: Input should be a valid dictionary"),
        ("student.kep_layers=2", "did you mean 'keep_layers'?"),
    ],
)
def test_a_mistake_is_one_error_that_names_the_override(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(RecipeError) as error:
        load(tmp_path, override)
    assert f"--set {override}" in str(error.value)
    assert message in str(error.value)


def test_stages_that_are_plain_strings_are_one_error(tmp_path: Path) -> None:
    text = "name: t\nstudent: builtin:nano-student\nstages: [prepare, sft]\n"
    with pytest.raises(
        RecipeError, match=r"--set stages.sft.select=best: `stages.sft` is 'sft', a plain value without keys"
    ):
        load(tmp_path, "stages.sft.select=best", text=text)
    with pytest.raises(RecipeError, match=r"nothing in `stages` is called 'x'; found: prepare, sft"):
        load(tmp_path, "stages.x.select=best", text=text)
    with pytest.raises(RecipeError, match=r"t.yaml:\n  stages.0: "):
        load(tmp_path, text=text)
