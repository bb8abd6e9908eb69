"""Recipes: parsing, overrides, limits, expansion, and errors that say what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from eyas.errors import RecipeError
from eyas.recipe import DistillStage, Recipe, RolloutStage, SftStage, expand, load_recipe, parse_recipe, training_rounds

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))
BASE = """
name: t
student: builtin:nano-student
teacher: builtin:nano-teacher
stages:
  - {type: prepare, source: {type: arithmetic}, labelled: 100, unlabelled: 100}
  - {type: sft}
  - {type: distill, model: sft, rounds: 2}
  - {type: sft, name: control, model: sft, match_tokens: distill, select: best}
  - {type: evaluate, models: {base: student, sft: sft, distilled: distill, teacher: teacher}}
  - {type: report}
"""


def recipe(**changes: object) -> Recipe:
    return parse_recipe(yaml.safe_load(BASE) | changes)


def test_every_recipe_in_the_folder_is_valid() -> None:
    assert len(RECIPES) >= 2
    for path in RECIPES:
        assert load_recipe(path).name == path.stem


def test_distill_expands_to_a_rollout_a_scoring_and_a_training_per_round() -> None:
    names = [stage.name for stage in expand(recipe())]
    assert names[2:8] == [
        "distill.1.rollout", "distill.1.score", "distill.1", "distill.2.rollout", "distill.2.score", "distill",
    ]  # fmt: skip


def test_a_refresh_samples_from_the_round_before() -> None:
    stages = {stage.name: stage for stage in expand(recipe())}
    second = stages["distill.2.rollout"]
    assert isinstance(second, RolloutStage)
    assert second.model == "distill.1"


def test_prefix_is_one_field(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(BASE)
    for prefix, model, prompts in (("teacher", "teacher", "unlabelled"), ("label", "sft", "labelled")):
        stages = {s.name: s for s in expand(load_recipe(path, overrides=[f"stages.distill.prefix={prefix}"]))}
        rollout = stages["distill.1.rollout"]
        assert isinstance(rollout, RolloutStage)
        assert (rollout.prefix, rollout.model, rollout.prompts) == (prefix, model, prompts)


def test_matched_rounds_are_all_rounds_of_the_distillation() -> None:
    names = {stage.name for stage in training_rounds(expand(recipe()), "distill")}
    assert names == {
        "distill", "distill.1", "distill.1.rollout", "distill.1.score", "distill.2.rollout", "distill.2.score",
    }  # fmt: skip


def test_limit_makes_a_smoke_run_of_the_same_stages(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(BASE)
    full, small = load_recipe(path), load_recipe(path, limit=8)
    assert [stage.name for stage in expand(full)] == [stage.name for stage in expand(small)]
    sft, distill = small.stages[1], small.stages[2]
    assert isinstance(sft, SftStage)
    assert isinstance(distill, DistillStage)
    assert sft.training.steps == 8
    assert distill.training.batch_size == 8


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.distill.prefx=teacher", "did you mean 'prefix'"),
        ("stages.distil.prefix=teacher", "did you mean 'distill'"),
        ("stages.control.model=distll", "did you mean 'distill'"),
        ("stages.distill.prefix=nobody", "'student', 'teacher' or 'label'"),
        ("stages.sft.training.epochs=-1", "greater than 0"),
        ("seed", "expected key=value"),
        ("stages.control.name=sft", "two stages are called 'sft'"),
        ("stages.control.match_tokens=prepare", "wants model in `match`"),
        ("student={keep_layers: 2}", "exactly one of `from` and `config`"),
        ("thinking=qwen9", "unknown thinking format 'qwen9'"),
    ],
)
def test_a_mistake_is_named_with_its_nearest_cure(tmp_path: Path, override: str, message: str) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(BASE)
    with pytest.raises(RecipeError, match=message.replace("(", r"\(")):
        load_recipe(path, overrides=[override])


def test_a_missing_file_and_broken_yaml_are_recipe_errors(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("name: [")
    with pytest.raises(RecipeError, match="not valid YAML"):
        load_recipe(tmp_path / "bad.yaml")


def test_a_stage_that_needs_a_teacher_says_so_without_one() -> None:
    data = yaml.safe_load(BASE)
    del data["teacher"]
    with pytest.raises(RecipeError, match="wants model in `model`, found 'teacher'"):
        parse_recipe(data)
