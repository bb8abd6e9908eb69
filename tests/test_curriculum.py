"""Pass rates, weights and orders, against values counted by hand."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest

from eyas.curriculum import frontier_weights, majority_answers, pass_rates, training_order
from eyas.records import Mode, SequenceRecord


def rollout(
    example: str, *, grade: float | None = None, answer: str | None = None, mode: Mode = "fast"
) -> SequenceRecord:
    return SequenceRecord(
        example_id=example, sample=0, mode=mode, source="student", prompt_ids=[1], completion_ids=[2],
        finish_reason="stop", grade=grade, answer=answer,
    )  # fmt: skip


def test_pass_rate_is_graded_where_there_is_a_grade() -> None:
    found = pass_rates([rollout("a", grade=1.0), rollout("a", grade=0.0), rollout("a", grade=1.0)], pseudo_answers={})
    assert found.rates["a", "fast"] == pytest.approx((2 + 1) / (3 + 2))
    assert (found.graded, found.pseudo, found.unknown) == (1, 0, 0)


def test_without_grades_agreement_with_the_teachers_majority_counts_and_is_called_pseudo() -> None:
    teacher = [rollout("a", answer="7"), rollout("a", answer="8"), rollout("a", answer="7")]
    students = [rollout("a", answer="7"), rollout("a", answer="9"), rollout("b", answer="1")]
    found = pass_rates(students, pseudo_answers=majority_answers(teacher))
    assert found.rates == {("a", "fast"): pytest.approx((1 + 1) / (2 + 2))}
    assert (found.graded, found.pseudo, found.unknown) == (0, 1, 1)


def test_frontier_weights_are_p_one_minus_p_over_their_mean() -> None:
    keys: list[tuple[str, Mode]] = [("a", "fast"), ("b", "fast"), ("c", "fast")]
    # 0.5·0.5 = 0.25 and 0.2·0.8 = 0.16, mean 0.205; c is unknown.
    weights = frontier_weights(keys, {("a", "fast"): 0.5, ("b", "fast"): 0.2})
    assert weights == pytest.approx([0.25 / 0.205, 0.16 / 0.205, 1.0])


def keys(reasoning: int, fast: int) -> list[tuple[str, Mode]]:
    return [(f"r{i}", "reasoning") for i in range(reasoning)] + [(f"f{i}", "fast") for i in range(fast)]


def test_modes_are_drawn_by_their_shares() -> None:
    order = training_order(keys(10, 10), order="shuffle", rates={}, modes={"reasoning": 3, "fast": 1}, seed=0)
    drawn = Counter("reasoning" if index < 10 else "fast" for index in islice(order, 400))
    assert drawn == {"reasoning": 300, "fast": 100}


def test_an_epoch_holds_every_sequence_once_and_epochs_differ() -> None:
    order = training_order(keys(0, 50), order="shuffle", rates={}, modes=None, seed=1)
    first, second = list(islice(order, 50)), list(islice(order, 50))
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second


@pytest.mark.parametrize(("order", "wanted"), [("easy_to_hard", [2, 0, 1]), ("hard_to_easy", [1, 0, 2])])
def test_difficulty_orders_follow_the_pass_rate(order: str, wanted: list[int]) -> None:
    rates = {("f0", "fast"): 0.5, ("f1", "fast"): 0.1, ("f2", "fast"): 0.9}
    found = training_order(keys(0, 3), order=order, rates=rates, modes=None, seed=0)  # type: ignore[arg-type]
    assert list(islice(found, 3)) == wanted


def test_the_order_depends_on_the_seed_alone() -> None:
    def drawn(seed: int) -> list[int]:
        return list(islice(training_order(keys(9, 9), order="shuffle", rates={}, modes=None, seed=seed), 40))

    assert drawn(4) == drawn(4)
    assert drawn(4) != drawn(5)
