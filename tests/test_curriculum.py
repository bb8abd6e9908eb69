"""Pass rates, weights and orders, against values counted by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pytest

from eyas.curriculum import (
    Key,
    competence,
    frontier_weights,
    majority_answers,
    outside_window,
    pass_rates,
    training_order,
)
from eyas.errors import DataError
from eyas.recipe import CurriculumSpec, WindowSpec
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
    assert found.shares["a", "fast"] == pytest.approx(2 / 3)
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


def test_a_grade_counts_more_than_what_the_teacher_says() -> None:
    found = pass_rates([rollout("a", grade=1.0, answer="7")], pseudo_answers={("a", "fast"): "8"})
    assert (found.shares, found.graded, found.pseudo) == ({("a", "fast"): 1.0}, 1, 0)


def test_a_tie_of_the_teachers_answers_is_no_pseudo_answer() -> None:
    teacher = [rollout("a", answer="7"), rollout("a", answer="8"), rollout("b", answer="1"), rollout("c", answer=None)]
    assert majority_answers(teacher) == {("b", "fast"): "1"}
    found = pass_rates([rollout("a", answer="7"), rollout("b", answer=None)], pseudo_answers=majority_answers(teacher))
    # A completion that was cut has no answer and agrees with nobody.
    assert (found.shares, found.unknown) == ({("b", "fast"): 0.0}, 1)


def test_without_smoothing_rates_and_weights_are_paceds_as_counted() -> None:
    def graded(example: str, right: int, of: int) -> list[SequenceRecord]:
        return [rollout(example, grade=float(n < right)) for n in range(of)]

    found = pass_rates([*graded("a", 2, 8), *graded("b", 0, 8), *graded("c", 2, 4)], pseudo_answers={}, smoothing=0)
    keys: list[Key] = [("a", "fast"), ("b", "fast"), ("c", "fast")]
    assert [found.rates[key] for key in keys] == [0.25, 0.0, 0.5]
    # 3/16, 0 and 1/4: their mean is 7/48.
    assert frontier_weights(keys, found.rates) == pytest.approx([9 / 7, 0.0, 12 / 7])


@pytest.mark.parametrize("right", [0, 3, 8])
def test_weights_of_equal_rates_are_one(right: int) -> None:
    graded = [rollout(example, grade=float(n < right)) for example in "ab" for n in range(8)]
    keys: list[Key] = [("a", "fast"), ("b", "fast")]
    assert frontier_weights(keys, pass_rates(graded, pseudo_answers={}).rates) == pytest.approx([1.0, 1.0])


def test_weights_that_are_all_zero_are_an_error_that_says_what_to_do() -> None:
    with pytest.raises(DataError, match=r"is 0 for all 2 sequences.*`curriculum.smoothing` above 0"):
        frontier_weights([("a", "fast"), ("b", "fast")], {("a", "fast"): 0.0, ("b", "fast"): 1.0})


def keys(reasoning: int, fast: int) -> list[tuple[str, Mode]]:
    return [(f"r{i}", "reasoning") for i in range(reasoning)] + [(f"f{i}", "fast") for i in range(fast)]


def ordered(
    keys: list[Key],
    *,
    steps: int,
    batch_size: int,
    ease: Mapping[Key, float] | None = None,
    modes: dict[Mode, float] | None = None,
    seed: int = 0,
    **curriculum: object,
) -> list[int]:
    spec = CurriculumSpec.model_validate(curriculum)
    return training_order(keys, spec=spec, ease=ease or {}, modes=modes, seed=seed, steps=steps, batch_size=batch_size)


def easing(count: int) -> dict[Key, float]:
    """f0 is the hardest."""
    return {(f"f{i}", "fast"): i / count for i in range(count)}


def test_modes_are_drawn_by_their_shares() -> None:
    order = ordered(keys(10, 10), modes={"reasoning": 3, "fast": 1}, steps=100, batch_size=4)
    drawn = Counter("reasoning" if index < 10 else "fast" for index in order)
    assert drawn == {"reasoning": 300, "fast": 100}


def test_an_epoch_holds_every_sequence_once_and_epochs_differ() -> None:
    order = ordered(keys(0, 50), seed=1, steps=20, batch_size=5)
    first, second = order[:50], order[50:]
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second


@pytest.mark.parametrize(("order", "wanted"), [("easy_to_hard", [2, 0, 1]), ("hard_to_easy", [1, 0, 2])])
def test_difficulty_orders_follow_the_pass_rate(order: str, wanted: list[int]) -> None:
    ease: dict[Key, float] = {("f0", "fast"): 0.5, ("f1", "fast"): 0.1, ("f2", "fast"): 0.9}
    assert ordered(keys(0, 3), ease=ease, order=order, steps=1, batch_size=3) == wanted


@pytest.mark.parametrize("order", ["shuffle", "easy_to_hard", "hard_to_easy", "competence", "balanced"])
def test_the_order_depends_on_the_seed_alone(order: str) -> None:
    def drawn(seed: int) -> list[int]:
        return ordered(keys(9, 9), order=order, seed=seed, steps=10, batch_size=4)

    assert drawn(4) == drawn(4)
    assert drawn(4) != drawn(5)


@pytest.mark.parametrize("order", ["shuffle", "easy_to_hard", "hard_to_easy", "competence", "balanced"])
def test_a_mode_without_sequences_is_not_drawn(order: str) -> None:
    drawn = ordered(keys(0, 2), order=order, modes={"reasoning": 3, "fast": 1}, steps=3, batch_size=4)
    assert len(drawn) == 12
    assert set(drawn) == {0, 1}


def test_competence_is_the_papers_square_root() -> None:
    # c0 = 0.1, T = 100: c(25) = sqrt(25 · (1 - 0.01) / 100 + 0.01) = sqrt(0.2575)
    assert competence(0, steps=100, initial=0.1) == pytest.approx(0.1)
    assert competence(25, steps=100, initial=0.1) == pytest.approx(0.2575**0.5)
    assert competence(100, steps=100, initial=0.1) == pytest.approx(1.0)
    assert competence(300, steps=100, initial=0.1) == 1.0


def test_competence_draws_from_a_growing_share_of_the_easiest_and_in_the_end_from_all() -> None:
    spec = {"order": "competence", "pacing": {"initial": 0.1, "until": 0.5}}
    order = ordered(keys(0, 100), ease=easing(100), steps=80, batch_size=10, **spec)
    for step in range(80):
        batch = order[step * 10 : (step + 1) * 10]
        # 100 examples, T = 40 steps: of them the ceil(100 c(t)) with the largest numbers.
        eligible = -(-100 * competence(step, steps=40, initial=0.1) // 1)
        assert min(batch) >= 100 - eligible
        assert len(set(batch)) == 10
    assert sorted(order[:10]) == list(range(90, 100))
    late = Counter(order[400:])
    assert len(late) > 90
    assert max(late.values()) < 15  # 400 uniform draws of 100: 4 each


def test_competence_repeats_the_easiest_where_a_step_wants_more_than_there_are() -> None:
    order = ordered(keys(0, 10), ease=easing(10), steps=1, batch_size=7, order="competence", pacing={"initial": 0.3})
    assert Counter(order).keys() == {7, 8, 9}
    assert sorted(Counter(order).values()) == [2, 2, 3]


@pytest.mark.parametrize("order", ["shuffle", "easy_to_hard", "hard_to_easy", "competence", "balanced"])
def test_a_single_sequence_fills_every_step(order: str) -> None:
    assert ordered(keys(0, 1), ease=easing(1), order=order, steps=3, batch_size=2) == [0] * 6


@pytest.mark.parametrize("order", ["easy_to_hard", "hard_to_easy"])
def test_of_equal_rates_every_epoch_is_another_shuffle(order: str) -> None:
    ties: dict[Key, float] = {(f"f{i}", "fast"): 0.3 for i in range(30)}
    drawn = ordered(keys(0, 30), ease=ties, order=order, steps=4, batch_size=15)
    assert sorted(drawn[:30]) == sorted(drawn[30:]) == list(range(30))
    assert drawn[:30] != drawn[30:] != list(range(30))


def test_without_a_rate_a_sequence_stands_in_the_middle() -> None:
    ease: dict[Key, float] = {("f0", "fast"): 0.9, ("f2", "fast"): 0.1}
    assert ordered(keys(0, 3), ease=ease, order="easy_to_hard", steps=1, batch_size=3) == [0, 1, 2]


@pytest.mark.parametrize("bins", [2, 3, 5])
def test_balanced_puts_equally_many_of_every_difficulty_into_every_step(bins: int) -> None:
    order = ordered(keys(0, 60), ease=easing(60), steps=40, batch_size=7, order="balanced", bins=bins)
    for step in range(40):
        found = Counter(index * bins // 60 for index in order[step * 7 : (step + 1) * 7])
        assert len(found) == bins
        assert max(found.values()) - min(found.values()) <= 1
    assert sorted(order[:60]) == list(range(60))


def test_balanced_holds_within_each_mode() -> None:
    ease: dict[Key, float] = easing(30) | {(f"r{i}", "reasoning"): i / 30 for i in range(30)}
    order = ordered(
        keys(30, 30), ease=ease, steps=20, batch_size=12, modes={"reasoning": 1, "fast": 1}, order="balanced"
    )
    for step in range(20):
        found = Counter(index // 10 for index in order[step * 12 : (step + 1) * 12])
        assert found == dict.fromkeys(range(6), 2)


def test_balanced_copes_with_fewer_sequences_than_bins() -> None:
    assert Counter(ordered(keys(0, 2), steps=2, batch_size=2, order="balanced")) == {0: 2, 1: 2}


def test_the_window_leaves_out_what_is_never_and_what_is_nearly_always_passed() -> None:
    names = [("never", 0.0), ("seldom", 0.125), ("often", 0.9), ("nearly", 0.95), ("always", 1.0)]
    shares: dict[Key, float] = {(name, "fast"): share for name, share in names}
    found = outside_window([*shares, ("unknown", "fast")], shares, window=WindowSpec())
    below, above = "pass_rate_below_window", "pass_rate_above_window"
    assert found == [below, None, None, above, above, None]
    assert set(outside_window(list(shares), shares, window=WindowSpec(low=None, high=1.0))) == {None}


def test_a_window_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"low < high, found low 0.5 and high 0.5"):
        WindowSpec(low=0.5, high=0.5)
