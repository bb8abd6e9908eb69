"""reasoning-gym tasks: no shared items between splits or seeds, traces that end at the verified answer."""

from __future__ import annotations

import json
import sys
from itertools import islice

import pytest

from eyas.errors import MissingExtra, RecipeError
from eyas.grading import grade
from eyas.recipe import ReasoningGymSource
from eyas.tasks import load_examples
from eyas.tasks.reasoning_gym import draw
from eyas.tasks.traces import TRACES

pytest.importorskip("reasoning_gym")


def source(task: str, **config: object) -> ReasoningGymSource:
    return ReasoningGymSource(type="reasoning_gym", tasks={task: config})


def test_splits_share_no_question_whatever_the_seed() -> None:
    chains = source("chain_sum", min_terms=2, max_terms=2, min_digits=2, max_digits=2)
    train = {e.key for seed in (0, 1) for e in load_examples(chains, split="train", count=400, seed=seed)}
    test = {e.key for seed in (0, 1) for e in load_examples(chains, split="test", count=100, seed=seed)}
    assert train.isdisjoint(test)
    assert len(train) > 600


@pytest.mark.parametrize("task", sorted(TRACES))
def test_a_reference_answer_passes_and_a_wrong_one_fails_its_own_verifier(task: str) -> None:
    for example in islice(draw(source(task), split="train", seed=0), 20):
        assert grade(example.answer or "", example) == 1.0
        assert grade("no such answer", example) == 0.0


def test_the_running_totals_of_a_chain_end_at_its_answer() -> None:
    for example in islice(draw(source("chain_sum"), split="train", seed=0), 50):
        assert (example.reasoning or "").splitlines()[-1].endswith(f"={example.answer}")


def test_running_totals_survive_negative_terms() -> None:
    chains = source("chain_sum", min_terms=2, max_terms=4, allow_negation=True)
    for example in islice(draw(chains, split="train", seed=0), 50):
        for line in (example.reasoning or "").splitlines():
            left, _, right = line.partition("=")
            assert eval(left) == int(right)
        assert (example.reasoning or "").endswith(f"={example.answer}")


def test_the_letters_of_a_word_spelt_backward_are_its_answer() -> None:
    for example in islice(draw(source("spell_backward"), split="train", seed=0), 30):
        assert (example.reasoning or "").replace(" ", "") == example.answer


def test_counted_letters_add_up_to_the_answer() -> None:
    for example in islice(draw(source("letter_counting"), split="train", seed=0), 30):
        counts = [int(part.split()[-1]) for part in (example.reasoning or "").split(", ") if part != "none"]
        assert sum(counts) == int(json.loads(example.metadata)["answer"])


def test_the_level_is_the_items_own_difficulty() -> None:
    chains = source("chain_sum", min_terms=2, max_terms=3, min_digits=2, max_digits=2)
    levels = {example.level for example in islice(draw(chains, split="train", seed=0), 40)}
    assert levels == {"2 digits, 2 terms", "2 digits, 3 terms"}


def test_tasks_take_turns_until_each_is_exhausted() -> None:
    both = ReasoningGymSource(type="reasoning_gym", tasks={"gcd": {}, "chain_sum": {"max_terms": 2, "max_digits": 1}})
    # One-digit chains of two terms: 10 · 10 · 2 = 200 problems, 85 % of them in train; gcd has far more.
    drawn = list(islice(draw(both, split="train", seed=0), 500))
    chains = [example for example in drawn if example.key.startswith("chain_sum")]
    assert [example.key.split(":")[0] for example in drawn[:4]] == ["gcd", "chain_sum"] * 2
    assert 150 < len(chains) <= 200
    assert len({example.key for example in drawn}) == len(drawn) == 500


@pytest.mark.parametrize("task", ["graph_color", "rush_hour"])
def test_a_task_that_states_no_answer_is_refused(task: str) -> None:
    with pytest.raises(RecipeError, match="no answer that its own verifier accepts"):
        next(draw(source(task), split="train", seed=0))


def test_a_task_whose_verifier_compares_with_tuples_can_be_graded_from_json() -> None:
    example = next(draw(source("rearc"), split="train", seed=0))
    assert grade(example.answer or "", example) == 1.0


def test_an_unknown_task_is_a_recipe_error() -> None:
    with pytest.raises(RecipeError, match="'no_such_task'"):
        next(draw(source("no_such_task"), split="train", seed=0))


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(MissingExtra, match=r"pip install reasoning-gym"):
        next(draw(source("chain_sum"), split="train", seed=0))


def test_a_wrong_configuration_is_a_recipe_error() -> None:
    with pytest.raises(RecipeError, match="chain_sum"):
        list(islice(draw(source("chain_sum", no_such_field=1), split="train", seed=0), 1))


def test_the_origin_is_the_task() -> None:
    examples = islice(draw(source("letter_counting"), split="train", seed=0), 3)
    assert {example.origin for example in examples} == {"letter_counting"}
