"""`curriculum.difficulty`: one rollout stage per checkpoint and settings, before the first stage that reads it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_end_to_end import eyas

from eyas.errors import RecipeError
from eyas.graph import build_graph
from eyas.recipe import Recipe, RolloutStage, expand, parse_recipe, training_rounds
from eyas.storage.artifacts import read_json

ORDERED = {"difficulty": {"model": "sft"}, "order": "easy_to_hard"}


def recipe(*curricula: dict[str, Any], before: Sequence[dict[str, Any]] = (), **distill: Any) -> Recipe:
    """An sft, what is `before`, one further sft per curriculum, and a distillation of two rounds."""
    stages: list[dict[str, Any]] = [
        {"type": "prepare", "source": {"type": "arithmetic"}, "labelled": 10, "unlabelled": 10},
        {"type": "sft"},
        *before,
        *({"type": "sft", "name": f"s{n}", "model": "sft", "curriculum": made} for n, made in enumerate(curricula)),
        {"type": "distill", "model": "sft", "rounds": 2, **distill},
    ]
    return parse_recipe(
        {"name": "r", "student": "builtin:nano-student", "teacher": "builtin:nano-teacher", "stages": stages}
    )


def names(made: Recipe) -> list[str]:
    return [stage.name for stage in expand(made) if not stage.name.startswith("distill")]


def test_stages_with_the_same_difficulty_share_one_rollout_before_the_first_of_them() -> None:
    made = recipe(ORDERED, ORDERED | {"order": "balanced"}, curriculum=ORDERED | {"weight": "frontier"})
    assert names(made) == ["prepare", "sft", "sft.difficulty", "s0", "s1"]
    stages = {stage.name: stage for stage in expand(made)}
    rollout = stages["sft.difficulty"]
    assert isinstance(rollout, RolloutStage)
    assert (rollout.model, rollout.prefix, rollout.prompts, rollout.samples_per_prompt) == ("sft", "student", "all", 8)
    readers = [name for name, stage in stages.items() if stage.references().get("pass_rates", ("",))[0]]
    assert readers == ["s0", "s1", "distill.1", "distill"]
    assert {stages[name].references()["pass_rates"][0] for name in readers} == {"sft.difficulty"}


def test_other_settings_and_other_checkpoints_are_measured_on_their_own() -> None:
    few = {"difficulty": {"model": "sft", "samples_per_prompt": 4}, "order": "easy_to_hard"}
    teacher = {"difficulty": {"model": "teacher"}, "order": "easy_to_hard"}
    made = recipe(ORDERED, few, teacher)
    assert names(made) == [
        "prepare", "sft", "sft.difficulty", "s0", "sft.difficulty.2", "s1", "teacher.difficulty", "s2",
    ]  # fmt: skip
    rollout = {stage.name: stage for stage in expand(made)}["teacher.difficulty"]
    assert isinstance(rollout, RolloutStage)
    assert rollout.prefix == "teacher"


def test_the_fingerprint_is_that_of_the_same_rollouts_written_as_a_stage(tmp_path: Path) -> None:
    rollout = {"type": "rollout", "name": "sft.difficulty", "model": "sft", "prompts": "all", "samples_per_prompt": 8}
    data = recipe(ORDERED).model_dump(by_alias=True, exclude_unset=True)
    data["stages"] = [*data["stages"][:2], rollout, *data["stages"][2:]]
    data["stages"][3]["curriculum"] = {"rollouts": "sft.difficulty", "order": "easy_to_hard"}
    short, long = ({node.name: node.fingerprint for node in build_graph(made, workspace=tmp_path)} for made in (
        recipe(ORDERED), parse_recipe(data),
    ))  # fmt: skip
    assert short == long


def test_a_match_counts_the_shared_rollouts_once() -> None:
    made = recipe(curriculum=ORDERED)
    found = [stage.name for stage in training_rounds(expand(made), "distill", start="sft")]
    assert found.count("sft.difficulty") == 1


@pytest.mark.parametrize(
    ("curriculum", "message"),
    [
        ({**ORDERED, "rollouts": "x"}, "one of `difficulty`.* and `rollouts`"),
        ({"difficulty": {"model": "sft"}}, "nothing uses `difficulty`"),
        ({**ORDERED, "signal": "length"}, "nothing uses `difficulty`"),
        ({"signal": "length"}, "nothing uses `signal: length`"),
        ({"signal": "teacher_nll", "order": "competence"}, "teacher scores, which only `distill` has"),
        ({"signal": "length", "order": "competence", "window": {}}, "needs `curriculum.difficulty`"),
        ({**ORDERED, "difficulty": {}}, "model"),
        ({**ORDERED, "difficulty": {"model": "stf"}}, "'stf.difficulty' wants model.*did you mean 'sft'"),
        ({**ORDERED, "difficulty": {"model": "s0"}}, "'s0.difficulty' wants model in `model`, found 's0'"),
    ],
)
def test_a_wrong_difficulty_says_what_to_do(curriculum: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe(curriculum)


def test_pass_rates_of_other_prompts_alone_are_refused() -> None:
    def measuring(prompts: str) -> dict[str, Any]:
        return {"difficulty": {"model": "sft", "prompts": prompts}, "order": "balanced"}

    with pytest.raises(RecipeError, match=r"'s0' trains on labelled prompts, but .*of unlabelled ones.*`all`"):
        recipe(measuring("unlabelled"))
    with pytest.raises(RecipeError, match=r"'distill.1' trains on unlabelled prompts, but .*of labelled ones"):
        recipe(curriculum=measuring("labelled"))
    recipe(measuring("labelled"), curriculum=measuring("all"))
    recipe(curriculum=measuring("labelled"), prefix="label")


ANSWERS = {"type": "rollout", "name": "answers", "model": "teacher", "prefix": "teacher"}


@pytest.mark.parametrize("answers", [ANSWERS, {"type": "synthesize", "name": "answers"}])
def test_unlabelled_prompts_have_pass_rates_only_by_the_teachers_answers(answers: dict[str, Any]) -> None:
    measured = {"difficulty": {"model": "sft", "prompts": "unlabelled"}, "order": "balanced"}
    with pytest.raises(
        RecipeError, match=r"'distill.1' wants pass rates of unlabelled.*nothing grades.*pseudo_answers"
    ):
        recipe(curriculum=measured)
    with pytest.raises(RecipeError, match=r"'distill.1' wants .*\(from 'distill.1.rollout'\), which nothing grades"):
        recipe(curriculum={"order": "balanced"})
    measured |= {"pseudo_answers": "answers"}
    recipe(before=[answers], curriculum=measured)
    recipe(before=[answers], curriculum={"order": "balanced", "pseudo_answers": "answers"})
    if answers is ANSWERS:
        with pytest.raises(
            RecipeError, match=r"'answers', its `pseudo_answers`, answers labelled ones.*`prompts: unlabelled`"
        ):
            recipe(before=[answers | {"prompts": "labelled"}], curriculum=measured)


@pytest.mark.parametrize(("prefix", "whose"), [("teacher", "the teacher's"), ("label", "labels, not rollouts")])
def test_a_distillation_on_others_completions_must_say_whose_pass_rates(prefix: str, whose: str) -> None:
    with pytest.raises(RecipeError, match=rf"'distill.1' takes pass rates .* whose completions are {whose}.*to whom"):
        recipe(prefix=prefix, rollout={"prompts": "all"}, curriculum={"order": "easy_to_hard"})
    recipe(prefix=prefix, rollout={"prompts": "all"}, curriculum=ORDERED)


def test_weights_of_a_single_completion_a_prompt_are_refused_for_they_are_all_alike() -> None:
    weighted = {"weight": "frontier"}
    with pytest.raises(RecipeError, match=r"'distill.1.rollout' has one completion a prompt.*`samples_per_prompt: 8`"):
        recipe(rollout={"prompts": "all"}, curriculum=weighted)
    recipe(rollout={"prompts": "all", "samples_per_prompt": 2}, curriculum=weighted)
    recipe(rollout={"prompts": "all"}, curriculum=weighted | {"difficulty": {"model": "sft"}})


def test_what_synthesis_kept_has_no_pass_rates_but_can_be_trained_on_with_those_of_others() -> None:
    made = {"type": "synthesize", "name": "made", "prompts": "labelled"}
    on = {"type": "sft", "name": "on", "sequences": "made", "model": "sft"}
    with pytest.raises(
        RecipeError, match=r"'made', which keeps one answer a prompt.*`curriculum.rollouts: made.rollout`"
    ):
        recipe(before=[made, on | {"curriculum": {"rollouts": "made", "order": "balanced"}}])
    recipe(before=[made, on | {"curriculum": {"rollouts": "made.rollout", "order": "balanced"}}])
    other = {"difficulty": {"model": "sft", "prompts": "unlabelled"}, "order": "balanced"}
    with pytest.raises(RecipeError, match=r"'on' trains on labelled prompts, but .*are of unlabelled ones"):
        recipe(before=[made, on | {"curriculum": other}])


def test_the_rollouts_are_made_once_and_cached(small_recipe: Path, tmp_path: Path) -> None:
    data = yaml.safe_load(small_recipe.read_text())
    measured = {"model": "sft", "prompts": "labelled", "modes": ["fast"], "sampling": {"max_completion_tokens": 24}}
    training = {"batch_size": 8, "steps": 2}
    data["stages"] = data["stages"][:2] + [
        {
            "type": "sft", "name": name, "model": "sft", "modes": {"fast": 1}, "training": training,
            "curriculum": {"difficulty": measured, "order": order},
        }
        for name, order in (("first", "competence"), ("second", "balanced"))
    ]  # fmt: skip
    path = tmp_path / "graded.yaml"
    path.write_text(yaml.safe_dump(data))
    eyas("run", path, "--out", tmp_path / "runs")
    rollouts = list((tmp_path / "runs" / "artifacts").glob("rollout-*"))
    assert len(rollouts) == 1
    manifest = read_json(rollouts[0] / "manifest.json")
    assert manifest["facts"]["sequences"] == 48 * 8
    for model in (tmp_path / "runs" / "artifacts").glob("sft-*"):
        facts = read_json(model / "manifest.json")["facts"]
        if facts["steps"] == 2:
            known = {kind: facts["pass_rates"][kind] for kind in ("graded", "pseudo", "unknown", "trained_without")}
            assert known == {"graded": 48, "pseudo": 0, "unknown": 0, "trained_without": 0}
