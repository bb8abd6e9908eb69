from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats as scipy_stats
from scipy.optimize import minimize_scalar

from eyas.proportions import mcnemar_exact, pass_at_k, share_of, share_of_examples, tango, wilson


def test_wilson_equals_the_textbook_value() -> None:
    # 8 of 10: z² = 3.8415; centre = (0.8 + 0.192073) / 1.384146 = 0.716740;
    # half = 1.959964 / 1.384146 * sqrt(0.8*0.2/10 + 3.841459/400) = 1.416009 * sqrt(0.016 + 0.0096036) = 0.226577
    low, high = wilson(8, 10)
    assert low == pytest.approx(0.716740 - 0.226577, abs=2e-6)
    assert high == pytest.approx(0.716740 + 0.226577, abs=2e-6)


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (0, 20), (1, 3), (617, 2000), (20, 20)])
def test_wilson_equals_scipy(successes: int, n: int) -> None:
    expected = scipy_stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_without_examples_knows_nothing_and_refuses_more_successes_than_examples() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="5 successes of 4"):
        wilson(5, 4)


def test_a_share_carries_its_interval_and_needs_answers() -> None:
    share = share_of([True] * 8 + [False] * 2)
    assert share.as_dict() == {"value": 0.8, "low": wilson(8, 10)[0], "high": wilson(8, 10)[1], "n": 10}
    with pytest.raises(ValueError, match="no answers"):
        share_of([])


def test_one_answer_an_example_is_wilsons_own_interval() -> None:
    assert share_of_examples([1.0] * 617 + [0.0] * 1383, answers=2000) == share_of([True] * 617 + [False] * 1383)
    assert share_of_examples([1.0] * 20, answers=20) == share_of([True] * 20)


def test_several_answers_an_example_by_hand() -> None:
    # Values 0.5, 1, 0, 0.5 from 2 answers each: mean 0.5, variance (0 + 0.25 + 0.25 + 0) / 3 = 1/6, of the mean
    # 1/24; as many independent answers have that: 0.5 * 0.5 / (1/24) = 6 of the 8.
    found = share_of_examples([0.5, 1.0, 0.0, 0.5], answers=8)
    assert (found.value, found.n) == (0.5, 4)
    assert (found.low, found.high) == pytest.approx(wilson(3, 6))
    # Values 1, 1, 0, 0: variance 1/3, 0.25 / (1/12) = 3, but never fewer than examples, however many were drawn.
    found = share_of_examples([1.0, 1.0, 0.0, 0.0], answers=64)
    assert (found.low, found.high) == pytest.approx(wilson(2, 4))
    # All right: no spread to see, so as many as there are examples.
    assert share_of_examples([1.0] * 5, answers=40).low == pytest.approx(wilson(5, 5)[0])
    # One example says nothing of others; equal values are as good as independent answers.
    assert share_of_examples([0.25], answers=8).low == pytest.approx(wilson(0.25, 1)[0])
    assert share_of_examples([0.5] * 4, answers=8).low == pytest.approx(wilson(4, 8)[0])
    with pytest.raises(ValueError, match="3 answers to 4 examples"):
        share_of_examples([1.0] * 4, answers=3)


def test_the_clustered_interval_equals_the_bootstrap_over_examples_and_not_that_over_answers() -> None:
    rng = np.random.default_rng(11)
    rates = rng.beta(0.4, 0.4, 600)
    values = rng.binomial(8, rates) / 8
    found = share_of_examples(list(values), answers=8 * 600)
    low, high = np.quantile(values[rng.integers(600, size=(10_000, 600))].mean(axis=1), [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.003)
    naive = wilson(values.sum() * 8, 8 * 600)
    assert found.high - found.low > 2 * (naive[1] - naive[0])


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (0.3, 2.7), (5.0, 5.0)])
def test_the_clustered_interval_covers_the_truth_as_often_as_promised(a: float, b: float) -> None:
    rng = np.random.default_rng(4)
    held = 0
    for _ in range(500):
        values = rng.binomial(8, rng.beta(a, b, 60)) / 8
        found = share_of_examples(list(values), answers=8 * 60)
        held += found.low <= a / (a + b) <= found.high
    assert 0.92 <= held / 500 <= 0.98


def test_pass_at_k_by_hand() -> None:
    # 2 of 5 right, 3 drawn: 1 - C(3,3) / C(5,3) = 1 - 1/10; none wrong enough to fill k: 1.
    assert pass_at_k(5, 2, 3) == pytest.approx(0.9)
    assert pass_at_k(5, 3, 3) == 1.0
    assert pass_at_k(5, 0, 5) == 0.0
    assert pass_at_k(8, 3, 1) == pytest.approx(3 / 8)
    for n, right, k in ((5, 6, 1), (5, 2, 6), (5, 2, 0)):
        with pytest.raises(ValueError, match="samples right"):
            pass_at_k(n, right, k)


def test_pass_at_k_is_the_mean_over_all_ways_to_draw_k() -> None:
    outcomes = [True, False, False, True, False, False, False]
    drawn = list(itertools.combinations(outcomes, 3))
    assert pass_at_k(7, 2, 3) == pytest.approx(sum(any(way) for way in drawn) / len(drawn))


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (5, 0), (3, 3), (10, 25), (400, 320), (2100, 1900)])
def test_mcnemar_equals_scipys_binomial_test(wins: int, losses: int) -> None:
    expected = scipy_stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert mcnemar_exact(wins, losses) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_by_hand() -> None:
    # 5 wins, 1 loss: 2 * (C(6,0) + C(6,1)) / 2^6 = 2 * 7 / 64
    assert mcnemar_exact(5, 1) == pytest.approx(14 / 64)


def test_tango_equals_the_published_interval() -> None:
    # Fagerland, Lydersen & Laake 2014, doi.org/10.1002/sim.6148, airway hyper-responsiveness: 1 and 7 of 21 pairs.
    assert tango(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)


@pytest.mark.parametrize(("wins", "losses", "n"), [(1, 0, 50), (0, 4, 40), (3, 3, 20), (110, 90, 2000)])
def test_tangos_limits_are_where_the_score_test_rejects(wins: int, losses: int, n: int) -> None:
    ties = n - wins - losses
    for limit in tango(wins, losses, n):

        def unlikely(share: float, d: float = limit) -> float:
            return -float(np.dot([wins, losses, ties], np.log([share + d, share, 1 - 2 * share - d])))

        bounds = (max(0.0, -limit) + 1e-12, (1 - limit) / 2 - 1e-12)
        share = minimize_scalar(unlikely, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
        z = (wins - losses - n * limit) / np.sqrt(n * (2 * share + limit * (1 - limit)))
        assert abs(z) == pytest.approx(1.959964, abs=1e-4)


def test_tango_mirrors_stays_within_one_and_refuses_more_pairs_than_examples() -> None:
    assert tango(7, 1, 21) == tuple(-limit for limit in reversed(tango(1, 7, 21)))
    assert tango(50, 0, 50)[1] == 1
    assert tango(0, 1, 1)[0] == -1
    with pytest.raises(ValueError, match="2 wins and 1 losses of 2 examples"):
        tango(2, 1, 2)


def test_pass_at_k_close_to_one_does_not_round_beyond_it() -> None:
    found = share_of_examples([1 - 2**-53] * 6 + [1.0] * 5, answers=88)
    assert found.low < found.value <= found.high <= 1
