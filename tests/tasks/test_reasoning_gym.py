"""reasoning-gym tasks: no shared items between splits or seeds, traces that end at the verified answer."""

from __future__ import annotations

import json
from itertools import islice

import pytest

from eyas.errors import RecipeError
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


def test_counted_letters_add_up_to_the_answer() -> None:
    for example in islice(draw(source("letter_counting"), split="train", seed=0), 30):
        counts = [int(part.split()[-1]) for part in (example.reasoning or "").split(", ") if part != "none"]
        assert sum(counts) == int(json.loads(example.metadata)["answer"])


def test_a_wrong_configuration_is_a_recipe_error() -> None:
    with pytest.raises(RecipeError, match="chain_sum"):
        list(islice(draw(source("chain_sum", no_such_field=1), split="train", seed=0), 1))
