"""Which losses a recipe may ask for: the table, its documentation, and an error for everything else."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, get_args

import pytest

from eyas.errors import RecipeError
from eyas.recipe import LEGAL, DistillStage, Divergence, LossSpec, Objective, Recipe, Tail, parse_recipe

DOCS = Path(__file__).parents[1] / "docs" / "losses.md"
COMBINATIONS = list(itertools.product(get_args(Objective), get_args(Divergence), get_args(Tail)))


def recipe(loss: dict[str, Any], **distill: Any) -> Recipe:
    return parse_recipe({
        "name": "t", "student": "a", "teacher": "b",
        "stages": [
            {"type": "prepare", "source": {"type": "arithmetic"}},
            {"type": "distill", "loss": loss, **distill},
        ],
    })  # fmt: skip


def loss_of(made: Recipe) -> LossSpec:
    stage = made.stages[1]
    assert isinstance(stage, DistillStage)
    return stage.loss


def is_legal(objective: str, divergence: str, tail: str) -> bool:
    if objective == "sampled_advantage":
        return (divergence, tail) == ("forward_kl", "bucket")  # the defaults, as if not given
    rows = [row for row in LEGAL if (row.objective, row.divergence) == (objective, divergence)]
    return any(tail in row.tails for row in rows)


@pytest.mark.parametrize(("objective", "divergence", "tail"), COMBINATIONS)
def test_a_combination_is_legal_or_an_error_that_says_what_is(objective: str, divergence: str, tail: str) -> None:
    loss = {"objective": objective, "divergence": divergence, "tail": tail}
    if is_legal(objective, divergence, tail):
        assert loss_of(recipe(loss, score={"mass": 1.0})).divergence == divergence
    else:
        with pytest.raises(RecipeError, match=r"stages\.1\.distill\.loss: .*(legal: \w+|leave both out)"):
            recipe(loss)


def test_the_table_holds_as_many_as_the_docs_say() -> None:
    assert sum(is_legal(*combination) for combination in COMBINATIONS) == 23
    assert len(COMBINATIONS) == 96


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"beta": 0.5}, "`beta` does nothing with forward_kl and tail bucket: leave it out"),
        ({"divergence": "jsd", "skew": 0.1}, "`skew` does nothing with jsd and tail bucket.*read here: beta"),
        ({"divergence": "alpha_beta", "head_mass": 0.5}, "read here: alpha, beta"),
        ({"tail": "bucket", "head_entries": 3}, "`head_entries` does nothing with forward_kl"),
        ({"tail": "decoupled", "advantage_clip": 3.0}, "read here: head_entries, tail_weight"),
        ({"objective": "sampled_advantage", "tail_weight": 1.0}, "read here: advantage_clip"),
        ({"divergence": "jsd", "beta": 1.0}, "less than 1"),
        ({"divergence": "skew_forward", "skew": 0.0}, "greater than 0"),
    ],
)
def test_a_field_that_does_nothing_is_an_error(loss: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe(loss)


@pytest.mark.parametrize(
    ("loss", "distill", "message"),
    [
        ({"tail": "renormalise"}, {}, "Set score.mass to 1 and score.top_k to 2"),
        ({"tail": "renormalise"}, {"score": {"mass": 1.0, "top_k": 1}}, "score.top_k to 2"),
        ({"tail": "decoupled"}, {"score": {"mass": 1.0, "top_k": 5}}, "score.top_k to 6"),
        ({}, {"score": {"samples": 9}}, "`samples` does nothing with target top_k"),
        ({}, {"score": {"target": "random_sampling", "top_k": 9}}, "`top_k` does nothing with target random_sampling"),
        ({"objective": "sampled_advantage"}, {"rollout": {"sampling": {"temperature": 0}}}, "temperature 0,"),
        ({"objective": "sampled_advantage"}, {"rollout": {"sampling": {"top_p": 0.5}}}, "top_p 0.5"),
        ({"ce_on": "correct"}, {"selection": {"grade": "incorrect"}}, "finds nothing among"),
        ({"divergence": []}, {}, "divergence"),
    ],
)
def test_scores_that_a_loss_cannot_use_are_an_error(
    loss: dict[str, Any], distill: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe(loss, **distill)


def test_the_teachers_tokens_are_no_student_prefixes() -> None:
    with pytest.raises(RecipeError, match="give `prefix: teacher`"):
        parse_recipe({
            "name": "t", "student": "a", "teacher": "b",
            "stages": [
                {"type": "prepare", "source": {"type": "arithmetic"}},
                {"type": "rollout", "model": "teacher"},
            ],
        })  # fmt: skip


def test_parameters_have_the_sources_defaults_and_survive_a_round_trip() -> None:
    for row in LEGAL:
        for tail in row.tails or ("bucket",):
            loss = LossSpec(objective=row.objective, divergence=row.divergence or "forward_kl", tail=tail)
            assert LossSpec.model_validate(loss.model_dump()) == loss
            assert LossSpec.model_validate(loss.model_dump(by_alias=True, exclude_unset=True)) == loss
            assert all(getattr(loss, name) is not None for name in row.parameters)
    assert LossSpec(divergence="jsd").beta == 0.5
    assert (LossSpec(divergence="alpha_beta").alpha, LossSpec(divergence="alpha_beta").beta) == (0.2, 0.7)
    assert LossSpec(divergence="jsd", beta=0.9).summary == "jsd, tail bucket, beta 0.9"
    assert LossSpec().beta is None


@pytest.mark.parametrize(("objective", "divergence", "tail"), [c for c in COMBINATIONS if is_legal(*c)])
def test_random_sampling_goes_with_forward_kl_alone(objective: str, divergence: str, tail: str) -> None:
    loss = {"objective": objective, "divergence": divergence, "tail": tail}
    if (objective, divergence, tail) == ("divergence", "forward_kl", "bucket"):
        recipe(loss, score={"target": "random_sampling"})
    else:
        with pytest.raises(RecipeError, match=r"stage 'distill': .*linear in the target. Legal: forward_kl with tail"):
            recipe(loss, score={"target": "random_sampling"})


@pytest.mark.parametrize("objective", ["sampled_advantage", "asymmetric"])
def test_advantages_need_the_students_own_tokens_scored_at_temperature_one(objective: str) -> None:
    assert loss_of(recipe({"objective": objective})).advantage_clip == 10.0
    for prefix in ("teacher", "label"):
        with pytest.raises(RecipeError, match=f"needs tokens drawn from the student, found prefix {prefix}"):
            recipe({"objective": objective}, prefix=prefix)
    with pytest.raises(RecipeError, match=r"found scores of temperature 2. Set score.temperature to 1"):
        recipe({"objective": objective}, score={"temperature": 2.0})


def test_a_score_stage_of_its_own_is_checked_as_well() -> None:
    stages: list[dict[str, Any]] = [
        {"type": "prepare", "source": {"type": "arithmetic"}},
        {"type": "rollout"},
        {"type": "score", "target": "random_sampling"},
        {"type": "distill", "scores": "score", "loss": {"divergence": "tvd"}},
    ]
    with pytest.raises(RecipeError, match="stage 'distill': scores of target random_sampling do not go with tvd"):
        parse_recipe({"name": "t", "student": "a", "teacher": "b", "stages": stages})


def test_the_docs_table_is_the_legal_table() -> None:
    rows = [
        f"| `{row.objective}` | {f'`{row.divergence}`' if row.divergence else '–'} | `{row.target}` | "
        f"{', '.join(f'`{tail}`' for tail in row.tails) or '–'} | "
        f"{', '.join(f'`{name}`' for name in row.parameters) or '–'} | {'student' if row.sampled else 'any'} |"
        for row in LEGAL
    ]
    assert "\n".join(rows) in DOCS.read_text()
