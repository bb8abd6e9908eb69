"""Parity figures against values computed by hand, and the gate's decision."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from eyas.errors import ExportError, ShapeError
from eyas.parity import Limits, Parity, likeness, parity_of, require_parity

MODEL = np.log(np.array([[0.5, 0.25, 0.125, 0.125], [0.1, 0.2, 0.3, 0.4]], np.float32))
IDS = np.array([[0, 1], [3, 2]], np.int32)
GOOD = Parity(
    positions=2, max_error_nats=0.01, mean_error_nats=0.0, kl_nats=0.0,
    greedy_agreed=64, greedy_tokens=64, max_gap_nats=0.0
)  # fmt: skip


def test_error_and_divergence_are_those_computed_by_hand() -> None:
    found = np.log(np.array([[0.25, 0.25], [0.4, 0.3]], np.float32))
    prompt = likeness(MODEL, IDS, found, greedy=[3], found=[3])
    assert prompt.errors_TK == pytest.approx(np.array([[np.log(2), 0], [0, 0]]), abs=1e-6)
    # First position: .5 ln(.5/.25) + .25 ln 1 + rest .25 ln(.25/.5) = .25 ln 2; second: the same distribution.
    assert prompt.kl_T == pytest.approx(np.array([0.25 * np.log(2), 0]), abs=1e-6)
    assert (prompt.agreed, prompt.tokens, prompt.gap_nats) == (1, 1, 0.0)


def test_a_file_that_is_the_model_has_no_error_and_no_divergence() -> None:
    every = np.argsort(-MODEL, axis=-1).astype(np.int32)
    parity = parity_of([likeness(MODEL, every, np.take_along_axis(MODEL, every, -1), greedy=[3], found=[3])])
    assert parity.max_error_nats == 0
    assert parity.kl_nats == pytest.approx(0, abs=1e-6)


def test_agreement_ends_at_the_first_different_token_and_tells_how_much_it_matters() -> None:
    top = np.take_along_axis(MODEL, IDS, -1)
    prompt = likeness(MODEL, IDS, top, greedy=[0, 3], found=[0, 2])
    assert prompt.agreed == 1
    assert prompt.gap_nats == pytest.approx(np.log(0.4 / 0.3), abs=1e-6)
    assert likeness(MODEL, IDS, top, greedy=[0, 3], found=[1, 3]).gap_nats == pytest.approx(np.log(2), abs=1e-6)


def test_prompts_add_up_and_the_worst_one_counts() -> None:
    top = np.take_along_axis(MODEL, IDS, -1)
    good = likeness(MODEL, IDS, top, greedy=[0, 3], found=[0, 3])
    bad = likeness(MODEL, IDS, top - 0.5, greedy=[0, 3], found=[1, 3])
    parity = parity_of([good, bad])
    assert (parity.positions, parity.greedy_agreed, parity.greedy_tokens) == (4, 2, 4)
    assert parity.max_error_nats == pytest.approx(0.5)
    assert parity.mean_error_nats == pytest.approx(0.25)
    assert parity.max_gap_nats == pytest.approx(np.log(2))


def test_gate_passes_a_near_tie_and_refuses_what_is_over_any_limit() -> None:
    limits = Limits(error_nats=0.01, kl_nats=1e-3, gap_nats=0.02)
    require_parity(GOOD, limits=limits)
    require_parity(replace(GOOD, greedy_agreed=3, max_gap_nats=0.019), limits=limits)
    with pytest.raises(ExportError, match=r"0\.0200 nats .*64 of 64"):
        require_parity(replace(GOOD, max_error_nats=0.02), limits=limits)
    with pytest.raises(ExportError, match=r"3 of 64 .*0\.0300 nats"):
        require_parity(replace(GOOD, greedy_agreed=3, max_gap_nats=0.03), limits=limits)
    with pytest.raises(ExportError, match=r"mean KL 2\.00e-03"):
        require_parity(replace(GOOD, kl_nats=2e-3), limits=limits)
    with pytest.raises(ExportError, match="nan nats off"):
        require_parity(replace(GOOD, max_error_nats=float("nan")), limits=limits)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ShapeError, match="2 positions"):
        likeness(MODEL, IDS[:1], np.zeros((1, 2), np.float32), greedy=[], found=[])
    with pytest.raises(ShapeError, match="no prompts"):
        parity_of([])
