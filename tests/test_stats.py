from __future__ import annotations

import time

import numpy as np
import pytest

from eyas.proportions import tango
from eyas.stats import paired_difference, pooled_difference


@pytest.mark.parametrize("value", [1.0, 0.5])
def test_one_win_in_fifty_does_not_exclude_losses(value: float) -> None:
    """A resample of no loss has none: the bootstrap's interval would begin at 0, for right answers and for shares."""
    found = paired_difference([value] + [0.0] * 49, [0.0] * 50)
    assert found.low == tango(1, 0, 50)[0] == pytest.approx(-0.0528, abs=1e-4)
    assert found.high > found.difference == value / 50
    worse = paired_difference([0.0] * 50, [value] + [0.0] * 49)
    assert (worse.low, worse.high) == pytest.approx((-found.high, -found.low), abs=2e-3)


def test_paired_difference_counts_pairs_by_hand() -> None:
    a, b = [1, 1, 1, 0, 1, 0, 1, 1], [0, 1, 0, 1, 0, 0, 0, 1]
    found = paired_difference(a, b)
    assert (found.difference, found.n, found.wins, found.losses) == (3 / 8, 8, 4, 1)
    assert found.p_value == pytest.approx(2 * (1 + 5) / 32)


def test_paired_interval_equals_the_naive_bootstrap_over_examples() -> None:
    rng = np.random.default_rng(3)
    a = (rng.random(300) < 0.7).astype(float)
    b = np.where(rng.random(300) < 0.7, a, rng.random(300) < 0.5).astype(float)
    found = paired_difference(a, b, seed=1)
    drawn = rng.integers(300, size=(20_000, 300))
    low, high = np.quantile((a - b)[drawn].mean(axis=1), [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.004)
    assert found.high == pytest.approx(high, abs=0.004)


def test_paired_interval_handles_partial_grades_and_agrees_with_the_normal_approximation() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.random(400), rng.random(400)
    found = paired_difference(a, b, resamples=4000)
    half = 1.96 * (a - b).std() / 20
    assert found.high - found.difference == pytest.approx(half, rel=0.1)
    assert found.difference - found.low == pytest.approx(half, rel=0.1)


def test_pairing_makes_the_interval_narrower_than_independent_samples_would() -> None:
    rng = np.random.default_rng(7)
    easy = rng.random(1000) < 0.5
    found = paired_difference(easy | (rng.random(1000) < 0.1), easy, seed=0)
    unpaired = 2 * 1.96 * np.sqrt(2 * 0.25 / 1000)
    assert found.high - found.low < unpaired / 2


def test_grades_that_never_differ_leave_open_what_so_few_examples_leave_open() -> None:
    # Tango's score interval with no discordant pair: z² / (n + z²) = 3.8415 / (20 + 3.8415) = 0.16113 either way.
    found = paired_difference([1] * 20, [1] * 20)
    assert (found.difference, found.p_value) == (0, 1)
    assert (found.low, found.high) == pytest.approx((-0.16113, 0.16113), abs=1e-5)
    # Three seeds on the same twenty examples saw twenty, on examples of their own sixty: 3.8415 / 63.8415 = 0.06017.
    runs = [([0] * 20, [0] * 20)] * 3
    assert pooled_difference(runs, same_examples=True).high == pytest.approx(0.16113, abs=1e-5)
    apart = pooled_difference(runs, same_examples=False)
    assert (apart.low, apart.high, apart.p_value) == (
        pytest.approx(-0.06017, abs=1e-5),
        pytest.approx(0.06017, abs=1e-5),
        1,
    )


def test_a_difference_of_shares_stays_within_one_however_few_and_far_apart_the_seeds() -> None:
    found = pooled_difference([([1] * 40, [0] * 40), ([1] * 4 + [0] * 36, [0] * 40)], same_examples=True)
    assert (found.low, found.high) == (-1, 1)  # t with one degree of freedom would say ±570 points


def test_the_p_of_one_seed_is_mcnemars_and_of_several_agrees_with_the_interval() -> None:
    once = pooled_difference([([1] * 4 + [0] * 96, [0] * 100)], same_examples=True)
    assert once.p_value == pytest.approx(2 / 2**4)
    assert once.low > 0  # the interval alone would call four in a hundred certain
    rng = np.random.default_rng(8)
    for shift in (0.0, 0.02, 0.04, 0.06, 0.1, 0.2):
        runs = [(rng.random(300) < 0.4 + shift, rng.random(300) < 0.4) for _ in range(3)]
        found = pooled_difference(runs, same_examples=False)
        assert (found.p_value < 0.05) == (not found.low <= 0 <= found.high)
    assert found.p_value < 0.05


def test_the_same_seed_gives_the_same_interval_and_2000_examples_take_milliseconds() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 2, 2000), rng.integers(0, 2, 2000)
    started = time.perf_counter()
    found = paired_difference(a, b, seed=4)
    assert time.perf_counter() - started < 0.25
    assert found == paired_difference(a, b, seed=4)


def test_grades_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="expected two equal"):
        paired_difference([1, 0], [1])
    with pytest.raises(ValueError, match="non-empty"):
        paired_difference([], [])


def test_pooled_difference_is_the_mean_over_seeds_not_over_pairs() -> None:
    # seed 1: (1 - 0) / 2 = 0.5 over two examples; seed 2: 0 over four. Mean over seeds 0.25.
    found = pooled_difference([([1, 1], [0, 1]), ([1, 0, 1, 0], [1, 0, 1, 0])], same_examples=False)
    assert found.per_seed == (0.5, 0.0)
    assert (found.difference, found.n) == (0.25, 6)


@pytest.mark.parametrize("same_examples", [True, False])
def test_pooled_interval_holds_the_spread_between_seeds(same_examples: bool) -> None:
    def seeds(rates: tuple[float, ...]) -> list[tuple[list[int], list[int]]]:
        return [([1] * round(200 * rate) + [0] * round(200 * (1 - rate)), [0] * 200) for rate in rates]

    alike = pooled_difference(seeds((0.5, 0.5, 0.5)), same_examples=same_examples)
    apart = pooled_difference(seeds((0.3, 0.5, 0.7)), same_examples=same_examples)
    assert alike.difference == pytest.approx(apart.difference)
    assert apart.high - apart.low > 1.5 * (alike.high - alike.low)


def test_shared_examples_do_not_become_independent_by_repeating_the_run() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 2, 500), rng.integers(0, 2, 500)
    once = paired_difference(a, b)
    thrice = pooled_difference([(a, b)] * 3, same_examples=True)
    assert thrice.high - thrice.low == pytest.approx(once.high - once.low, rel=0.05)


def test_three_seeds_cover_the_truth_as_often_as_promised() -> None:
    rng = np.random.default_rng(3)
    held, trials = 0, 200
    for _ in range(trials):
        rates = 0.5 + rng.normal(0.0, 0.02, 3)  # between seeds 2 points, between examples of one seed 1.6
        runs = [(rng.random(1000) < rate, np.zeros(1000)) for rate in rates]
        found = pooled_difference(runs, same_examples=False, resamples=1000)
        held += found.low <= 0.5 <= found.high
    assert 0.92 <= held / trials <= 0.995


def test_runs_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit together"):
        pooled_difference([([1], [0]), ([1, 1], [0, 0])], same_examples=True)
    with pytest.raises(ValueError, match="do not fit together"):
        pooled_difference([], same_examples=False)
