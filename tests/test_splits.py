"""Splits go by the problem alone."""

from __future__ import annotations

from collections import Counter
from itertools import islice, permutations

from eyas.recipe import ArithmeticSource
from eyas.splits import split_of, split_read
from eyas.tasks import load_examples
from eyas.tasks.arithmetic import arithmetic_example, draw


def test_shares_are_85_5_10() -> None:
    counts = Counter(split_of(str(number)) for number in range(20_000))
    assert abs(counts["train"] / 20_000 - 0.85) < 0.01
    assert abs(counts["validation"] / 20_000 - 0.05) < 0.01
    assert abs(counts["test"] / 20_000 - 0.10) < 0.01


def test_beside_a_test_set_the_share_that_would_be_tested_on_is_trained_on() -> None:
    keys = [str(number) for number in range(1000)]
    of = {key: split_of(key) for key in keys}
    assert {key: split_read(key, read_for="train", own_test_set=False) for key in keys} == of
    assert {key: split_read(key, read_for="test", own_test_set=False) for key in keys} == of
    assert {split_read(key, read_for="test", own_test_set=True) for key in keys} == {"test"}
    beside = {key: split_read(key, read_for="train", own_test_set=True) for key in keys}
    assert beside == {key: "train" if split == "test" else split for key, split in of.items()}


def test_a_permuted_problem_falls_into_the_same_split() -> None:
    for terms in ([12, 45, 33], [99, 10, 57]):
        assert len({arithmetic_example(list(order)).key for order in permutations(terms)}) == 1


def test_splits_are_disjoint_whatever_the_seed() -> None:
    source = ArithmeticSource(type="arithmetic", terms=(2,))
    train = {e.key for seed in (0, 1) for e in load_examples(source, split="train", count=3000, seed=seed)}
    held_out = {
        e.key
        for seed in (0, 7)
        for split in ("test", "validation")
        for e in load_examples(source, split=split, count=300, seed=seed)  # type: ignore[arg-type]
    }
    assert len(train) > 3000
    assert len(held_out) > 300
    assert train.isdisjoint(held_out)


def test_answers_and_steps_are_right() -> None:
    for example in islice(draw(ArithmeticSource(type="arithmetic", terms=(2, 3, 4)), split="train", seed=3), 300):
        assert eval(example.prompt[0][1]) == int(example.answer or "")
        for line in (example.reasoning or "").splitlines():
            left, _, right = line.partition("=")
            assert eval(left) == int(right)
