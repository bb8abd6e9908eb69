"""The quickstart's regime: what its student was pretrained on tells next to nothing of the prompts it is given."""

from __future__ import annotations

from pathlib import Path

from eyas.recipe import PrepareStage, load_recipe
from eyas.tasks import load_examples

RECIPES = Path(__file__).parents[1] / "recipes"


def keys(name: str, stage_name: str) -> set[str]:
    recipe = load_recipe(RECIPES / name)
    (stage,) = [item for item in recipe.stages if isinstance(item, PrepareStage) and item.name == stage_name]
    count = stage.labelled + stage.unlabelled
    return {example.key for example in load_examples(stage.source, split="train", count=count, seed=recipe.seed)}


def test_few_of_the_prompts_were_pretrained_on() -> None:
    prompts = keys("quickstart.yaml", "prepare")
    seen = prompts & keys("nano-pretrain.yaml", "prepare-student")
    assert len(prompts) == 5000
    assert len(seen) < 0.02 * len(prompts)


def test_the_smollm2_prompts_are_not_those_the_teacher_was_taught() -> None:
    prompts = keys("smollm2.yaml", "prepare")
    seen = prompts & keys("smollm2-teacher.yaml", "prepare")
    assert len(seen) < 0.1 * len(prompts)
