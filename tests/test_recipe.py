"""Recipes: parsing, overrides, limits, expansion, and errors that say what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from eyas.errors import RecipeError
from eyas.recipe import (
    DistillStage,
    Recipe,
    RolloutStage,
    SftStage,
    expand,
    load_recipe,
    parse_recipe,
    training_rounds,
)

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


@pytest.mark.parametrize(
    ("at", "field", "value"),
    [
        (0, "held_out_elsewhere", [{"source": {"type": "arithmetic"}, "split": "test", "count": 5}]),
        (4, "divergence_scores", {"student": "distill.1.score"}),
    ],
)
def test_what_eyas_sets_itself_is_refused_in_a_recipe(at: int, field: str, value: object) -> None:
    stages = yaml.safe_load(BASE)["stages"]
    stages[at][field] = value
    kind = stages[at]["type"]
    with pytest.raises(
        RecipeError, match=rf"stage '{kind}'.*`{field}` is worked out from the other stages.*Take it out"
    ):
        recipe(stages=stages)


def test_a_recipe_written_out_with_its_defaults_can_be_read_again() -> None:
    written = recipe().model_dump(by_alias=True, mode="json")
    assert written["stages"][0]["held_out_elsewhere"] == []
    assert parse_recipe(written) == recipe()


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


def rounds(loaded: Recipe, name: str, *, start: str) -> list[str]:
    return [stage.name for stage in training_rounds(expand(loaded), name, start=start)]


ENTRY = ["distill.1.rollout", "distill.1.score", "distill.1", "distill.2.rollout", "distill.2.score", "distill"]


def test_matched_rounds_are_all_rounds_of_the_distillation() -> None:
    assert rounds(recipe(), "distill", start="sft") == ENTRY


def test_matched_rounds_reach_back_to_the_model_that_both_start_from() -> None:
    loaded = load_recipe(RECIPES[0].parent / "openpangu-1b.yaml")
    assert rounds(loaded, "distill", start="sft-fast") == [
        "distill-reasoning.1.rollout", "distill-reasoning.1.score", "distill-reasoning.1",
        "distill-reasoning.2.rollout", "distill-reasoning.2.score", "distill-reasoning",
        "sft",
        "distill.1.rollout", "distill.1.score", "distill",
    ]  # fmt: skip
    assert rounds(recipe(), "distill", start="student") == ["sft", *ENTRY]
    assert rounds(recipe(), "distill", start="distill.1") == ENTRY[3:]


def test_a_match_of_what_does_not_descend_from_the_start_counts_its_own_entry_alone() -> None:
    assert rounds(recipe(), "distill", start="control") == ENTRY
    assert rounds(recipe(), "distill", start="distill") == ENTRY
    assert rounds(recipe(), "control", start="distill") == ["control"]
    assert rounds(recipe(), "prepare", start="sft") == []


def test_scores_that_two_distillations_share_are_counted_once() -> None:
    data = yaml.safe_load(BASE)
    data["stages"][2:4] = [
        {"type": "rollout", "model": "sft"},
        {"type": "score"},
        {"type": "distill", "name": "first", "model": "sft", "scores": "score"},
        {"type": "distill", "model": "first", "scores": "score"},
        {"type": "sft", "name": "control", "model": "sft", "match_seconds": "distill"},
    ]
    assert rounds(parse_recipe(data), "distill", start="sft") == ["rollout", "score", "first", "distill"]


def test_a_match_counts_what_a_curriculum_and_sequences_cost_too() -> None:
    data = yaml.safe_load(BASE)
    data["stages"][2:4] = [
        {"type": "rollout", "name": "teacher-rollouts", "model": "teacher", "prefix": "teacher"},
        {"type": "sft", "name": "seqkd", "model": "sft", "sequences": "teacher-rollouts"},
        {
            "type": "distill",
            "model": "seqkd",
            "rollout": {"samples_per_prompt": 4},
            "curriculum": {"weight": "frontier", "pseudo_answers": "teacher-rollouts"},
        },
        {"type": "sft", "name": "control", "model": "sft", "match_seconds": "distill"},
    ]
    assert rounds(parse_recipe(data), "distill", start="sft") == [
        "teacher-rollouts", "seqkd", "distill.1.rollout", "distill.1.score", "distill",
    ]  # fmt: skip


def test_limit_makes_a_smoke_run_of_the_same_stages(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(BASE)
    full, small = load_recipe(path), load_recipe(path, limit=8)
    assert [stage.name for stage in expand(full)] == [stage.name for stage in expand(small)]
    sft, distill = small.stages[1], small.stages[2]
    assert isinstance(sft, SftStage)
    assert isinstance(distill, DistillStage)
    assert sft.training.steps == 2
    assert distill.training.batch_size == 8


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.distill.prefx=teacher", "did you mean 'prefix'"),
        (
            "stages.distill.loss.ce_on=label",
            "`loss.ce_on: label` needs `prefix: label`: student prefixes are no labels",
        ),
        ("stages.distil.prefix=teacher", "did you mean 'distill'"),
        ("stages.control.model=distll", "did you mean 'distill'"),
        ("stages.distill.prefix=nobody", "'student', 'teacher' or 'label'"),
        ("stages.sft.training.epochs=-1", "greater than 0"),
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


@pytest.mark.parametrize("wrong", [{"threads": True}, {"compile": 1}, {"compile": "off"}, {"threads": "2"}])
def test_an_answer_of_another_type_is_refused_not_converted(wrong: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match=next(iter(wrong))):
        recipe(execution=wrong)


def complaint(**changes: object) -> str:
    with pytest.raises(RecipeError) as error:
        recipe(**changes)
    return str(error.value)


def stages(number: int, **changes: object) -> str:
    found = yaml.safe_load(BASE)["stages"]
    found[number] |= changes
    return complaint(stages=found)


def test_an_unknown_key_is_taken_for_one_that_is_valid_where_it_stands() -> None:
    assert "stages.1.sft.trainig: unknown key 'trainig'; did you mean 'training'?" in stages(1, trainig={})
    loss = stages(2, loss={"divergance": "jsd"})
    assert "stages.2.distill.loss.divergance: unknown key 'divergance'; did you mean 'divergence'?" in loss
    assert "did you mean" not in stages(1, prefx="teacher")  # `prefix` is a key of other stages only
    assert "student.fron: unknown key 'fron'; did you mean 'from'?" in complaint(student={"from": "a", "fron": "b"})
    mixture = {"type": "mixture", "parts": [{"share": 1, "source": {"type": "file", "path": "a", "graders": "exact"}}]}
    assert "source.file.graders: unknown key 'graders'; did you mean 'grader'?" in stages(0, source=mixture)
    assert "off_task.hub.ids: unknown key 'ids'; did you mean 'id'?" in stages(
        0, off_task={"type": "hub", "id": "a", "ids": 1}
    )


def test_a_key_in_the_wrong_place_is_sent_where_it_belongs() -> None:
    execution = complaint(execution={"batch_size": 8})
    assert "'batch_size'; it belongs to stages.sft.training or stages.distill.training; or did you mean" in execution
    assert "'epochs'; it belongs to stages.sft.training\n" in stages(1, epochs=3) + "\n"
    assert "'lambda'; it belongs to stages.distill.loss" in stages(2, training={"lambda": 1})
    assert "'seed'; it belongs to the top level" in stages(1, training={"seed": 1})


def test_an_unknown_key_like_no_other_is_answered_with_all_that_are_known_there() -> None:
    source = {"type": "arithmetic", "qqq": 1}
    assert "source.arithmetic.qqq: unknown key 'qqq'; known here: type, terms" in stages(0, source=source)
    assert "unknown key 'qqq'; known here: rank, alpha, dropout" in stages(1, training={"lora": {"qqq": 1}})


def test_an_unreadable_file_is_one_recipe_error(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(tmp_path / "none.yaml")
    path = tmp_path / "bad.yaml"
    for content, message in (
        (b"name: [", "not valid YAML"),
        (b"name: 2025-02-30", "not valid YAML: day is out of range"),
        (b"name: &a [*a]", "an alias inside its own anchor"),
        ("name: é".encode("latin-1"), "expected UTF-8"),
        (b"- a", "expected a mapping with `name`, `student` and `stages`, found list"),
    ):
        path.write_bytes(content)
        with pytest.raises(RecipeError, match=message):
            load_recipe(path)


def test_a_stage_that_needs_a_teacher_says_so_without_one() -> None:
    data = yaml.safe_load(BASE)
    del data["teacher"]
    with pytest.raises(RecipeError, match="wants model in `model`, found 'teacher'"):
        parse_recipe(data)
