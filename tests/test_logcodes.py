"""Codes: every distribution within the bound, every token's entries and tail adding up to one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas.logcodes import (
    NO_TAIL,
    STEP,
    decode,
    decode_draws,
    draw_counts,
    entry_codes,
    tail_codes,
    token_codes,
)

LOGITS = st.lists(st.floats(-25, 0), min_size=2, max_size=30)


def coded(logprobs_O: np.ndarray) -> np.ndarray:
    """A distribution whose last outcome is the tail, coded and decoded, float64."""
    entries, tail = decode(
        entry_codes(logprobs_O[:-1]), tail_codes(logprobs_O[-1:]), np.array([len(logprobs_O) - 1], dtype=np.int32)
    )
    return np.concatenate([entries, tail]).astype(np.float64)


@given(logits=LOGITS)
def test_no_distribution_loses_more_than_an_eighth_of_the_squared_step(logits: list[float]) -> None:
    exact = np.array(logits) - np.logaddexp.reduce(logits)
    found = coded(exact)
    assert (np.exp(exact) * (exact - found)).sum() <= STEP**2 / 8 + 1e-6
    assert (np.exp(found) * (found - exact)).sum() <= STEP**2 / 8 + 1e-6
    assert np.abs(found - exact).max() <= STEP + 1e-5
    assert np.exp(found).sum() == pytest.approx(1, abs=1e-6)


def test_the_mean_loss_is_a_24th_of_the_squared_step() -> None:
    logits = np.random.default_rng(0).normal(0, 2, (2000, 11))
    exact = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    losses = [(np.exp(row) * (row - coded(row))).sum() for row in exact]
    assert np.mean(losses) < STEP**2 / 24 < 1e-3


def test_codes_are_what_the_arithmetic_says() -> None:
    # -0.5 / 0.125 = 4; -1.2 / 0.125 = 9.6, code 10. e^-0.5 + e^-1.25 + e^-3 = 0.94282; its log, -0.05888, goes off all.
    codes, tail = entry_codes(np.log(np.float32([0.60653066, 0.30119421]))), tail_codes(np.float32([-3.0]))
    assert (codes.tolist(), tail.tolist()) == ([4, 10], [24])
    logprobs, tails = decode(codes, tail, np.int32([2]))
    np.testing.assert_allclose(logprobs, [-0.5 + 0.05888, -1.25 + 0.05888], atol=1e-5)
    np.testing.assert_allclose(tails, [-3.0 + 0.05888], atol=1e-5)


@pytest.mark.parametrize("mass", [1e-12, 1e-9, 1e-3])
def test_small_tails_survive(mass: float) -> None:
    _, tail = decode(entry_codes(np.log1p(np.float64([-mass]))), tail_codes(np.log(np.float64([mass]))), np.int32([1]))
    assert abs(tail[0] - np.log(mass)) <= STEP


def test_no_tail_is_none_and_the_smallest_tail_is_one() -> None:
    codes = tail_codes(np.float32([-np.inf, -500.0, 0.0]))
    assert codes.tolist() == [NO_TAIL, 254, 0]
    _, tail = decode(np.uint8([0, 0, 255]), codes, np.int32([1, 1, 1]))
    assert np.isneginf(tail[0])
    np.testing.assert_allclose(tail[1:], [-31.75, 0.0], atol=1e-6)


def test_tokens_do_not_mix() -> None:
    rows = [np.log(np.array(row)) for row in ([0.7, 0.2, 0.1], [0.5, 0.5], [0.25, 0.25, 0.25, 0.25])]
    codes = np.concatenate([entry_codes(row[:-1]) for row in rows])
    tails = np.concatenate([tail_codes(row[-1:]) for row in rows])
    logprobs, tail = decode(codes, tails, np.int32([2, 1, 3]))
    alone = [coded(row) for row in rows]
    np.testing.assert_allclose(logprobs, np.concatenate([row[:-1] for row in alone]), atol=1e-6)
    np.testing.assert_allclose(tail, [row[-1] for row in alone], atol=1e-6)


def test_nothing_decodes_to_nothing() -> None:
    logprobs, tail = decode(np.uint8([]), np.uint8([]), np.int32([]))
    assert (len(logprobs), len(tail)) == (0, 0)


def test_a_tokens_own_log_prob_is_within_a_128th_of_a_nat() -> None:
    values = -np.random.default_rng(0).exponential(3, 1000).astype(np.float32)
    assert np.abs(token_codes(values) * -(1 / 64) - values).max() <= 1 / 128 + 1e-6
    assert token_codes(np.float32([1e-7, -np.inf])).tolist() == [0, 65535]


@given(st.integers(1, 65535), st.data())
def test_counts_of_draws_survive_exactly(samples: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, samples))
    stored = np.log(np.float32([count / samples])).astype(np.float32)
    assert draw_counts(stored, samples=samples).tolist() == [count]
    np.testing.assert_allclose(decode_draws(np.uint16([count]), samples=samples), stored, rtol=1e-5, atol=1e-6)
