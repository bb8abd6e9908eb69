"""Selection in recipes: what distill asks of its scores, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from eyas.errors import RecipeError
from eyas.graph import build_graph
from eyas.recipe import DistillStage, Recipe, ScoreStage, SftStage, expand, parse_recipe

PREPARE = {"type": "prepare", "source": {"type": "arithmetic"}, "labelled": 10, "unlabelled": 10}


def recipe(*stages: dict[str, Any]) -> Recipe:
    models = {"student": "builtin:nano-student", "teacher": "builtin:nano-teacher"}
    return parse_recipe({"name": "t", **models, "stages": [PREPARE, *stages]})


def test_a_window_for_delta_ifd_makes_every_round_score_without_the_prompt_too() -> None:
    window = {"type": "distill", "rounds": 2, "selection": {"delta_ifd": [0, 0.8], "grade": "incorrect"}}
    scores = [stage for stage in expand(recipe(window)) if isinstance(stage, ScoreStage)]
    assert [stage.unconditional for stage in scores] == [True, True]
    trained = [stage for stage in expand(recipe(window)) if isinstance(stage, DistillStage)]
    assert [stage.selection.grade for stage in trained] == ["incorrect", "incorrect"]
    plain = [stage for stage in expand(recipe({"type": "distill"})) if isinstance(stage, ScoreStage)]
    assert [stage.unconditional for stage in plain] == [False]


def test_shared_scores_must_hold_what_the_window_needs() -> None:
    stages = [{"type": "rollout"}, {"type": "score"}, {"type": "distill", "scores": "score"}]
    recipe(*stages)
    stages[2]["selection"] = {"delta_ifd": [0, 0.8]}
    with pytest.raises(RecipeError, match=r"'distill' has `selection.delta_ifd`.* Add `unconditional: true` .*'score'"):
        recipe(*stages)
    stages[1]["unconditional"] = True
    recipe(*stages)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"type": "sft", "selection": {"grade": "correct"}}, "`selection` chooses among `sequences`"),
        ({"type": "sft", "sequences": "r", "selection": {"delta_ifd": [0, 1]}}, "delta_ifd"),
        ({"type": "distill", "selection": {"delta_ifd": [0.8, 0]}}, r"low < high, found \[0.8, 0\]"),
        ({"type": "distill", "selection": {"repetition": 0}}, "repetition"),
        ({"type": "distill", "score": {"temperature": 2}, "selection": {"delta_ifd": [0, 1]}}, "score.temperature: 1"),
        ({"type": "score", "sequences": "r", "temperature": 2, "unconditional": True}, "needs `temperature` 1, found"),
    ],
)
def test_what_cannot_be_selected_is_a_recipe_error(stage: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe({"type": "rollout", "name": "r", "model": "teacher"}, stage)


def test_a_checked_recipe_can_be_written_out_in_full_and_read_again() -> None:
    made = recipe({"type": "sft"}, {"type": "distill", "selection": {"delta_ifd": [0, 0.8]}})
    again = parse_recipe(made.model_dump(by_alias=True, mode="json"))
    assert again == made
    assert isinstance(again.stages[1], SftStage)


def test_the_selection_is_part_of_the_fingerprint(tmp_path: Any) -> None:
    def fingerprint(**selection: Any) -> dict[str, str]:
        nodes = build_graph(recipe({"type": "distill", "selection": selection}), workspace=tmp_path)
        return {node.name: node.fingerprint for node in nodes}

    plain, graded, window = fingerprint(), fingerprint(grade="correct"), fingerprint(delta_ifd=[0, 0.8])
    assert len({found["distill"] for found in (plain, graded, window)}) == 3
    assert plain["distill.1.score"] == graded["distill.1.score"] != window["distill.1.score"]
    assert plain["distill.1.rollout"] == window["distill.1.rollout"]
