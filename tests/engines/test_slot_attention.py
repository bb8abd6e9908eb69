"""Which slots attend together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas.engines import slot_attention
from eyas.engines.slot_attention import runs_of


def test_a_run_is_as_wide_as_its_longest_and_equal_neighbours_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slot_attention, "RUN_ELEMENTS", 1800)  # two slots of 9 tokens of 100 numbers
    found = runs_of([9, 4, 4, 4, 4, 4, 5, 2], elements=100)
    assert found == [(slice(0, 2), 9), (slice(2, 6), 4), (slice(6, 8), 5)]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.sampled_from([1, 1000, 30_000, 10**6]))
def test_runs_hold_every_slot_once_and_none_is_cut(widths: list[int], elements: int) -> None:
    found = runs_of(widths, elements=elements)
    assert [slot for slots, _ in found for slot in range(slots.start, slots.stop)] == list(range(len(widths)))
    assert all(width == max(widths[slots]) for slots, width in found)
