"""Each filter on hand-made sequences, IFD by hand, and what must hold for any selection."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas.recipe import ArithmeticSource, DistillSelectionSpec, SelectionSpec
from eyas.records import SequenceRecord
from eyas.selection import NGRAM, Nll, delta_ifd, ifd, later_nll, repeated_share, select
from eyas.tasks import load_examples

LOOP = [7, 8, 9, 7, 8, 9] * 8
DONE = SequenceRecord(
    example_id="e", sample=0, mode="fast", source="student", prompt_ids=[1], completion_ids=[5, 6, 2],
    finish_reason="stop", grade=1.0,
)  # fmt: skip
CUT = replace(DONE, finish_reason="length", grade=0.0)
WRONG = replace(DONE, grade=0.0)
PARTLY = replace(DONE, grade=0.5)
UNGRADED = replace(DONE, grade=None)
LOOPING = replace(DONE, completion_ids=[*LOOP, 2])
ALL = [DONE, CUT, WRONG, PARTLY, UNGRADED, LOOPING]


def chosen(spec: SelectionSpec, **measures: list[float | None]) -> tuple[tuple[int, ...], dict[str, int]]:
    made = select(ALL, spec=spec, **measures)
    return made.kept, dict(made.dropped)


def test_sft_drops_what_was_cut_and_distill_keeps_all_by_default() -> None:
    assert chosen(SelectionSpec()) == ((0, 2, 3, 4, 5), {"truncated": 1})
    assert chosen(DistillSelectionSpec()) == ((0, 1, 2, 3, 4, 5), {})


def test_a_loop_is_repetitive() -> None:
    assert chosen(SelectionSpec(truncated="keep", repetition=0.5)) == ((0, 1, 2, 3, 4), {"repetitive": 1})


def test_correct_and_incorrect_part_the_graded_and_drop_the_rest_by_name() -> None:
    correct = chosen(SelectionSpec(truncated="keep", grade="correct"))
    assert correct == ((0, 5), {"graded_wrong": 3, "not_graded": 1})
    wrong = chosen(SelectionSpec(truncated="keep", grade="incorrect"))
    assert wrong == ((1, 2, 3), {"graded_correct": 2, "not_graded": 1})


def test_the_window_keeps_its_ends_and_names_the_side_that_was_missed() -> None:
    spec = DistillSelectionSpec(delta_ifd=(0, 0.8))
    kept, dropped = chosen(spec, delta_ifds=[0.0, 0.8, -0.001, 0.801, None, 0.4])
    assert kept == (0, 1, 5)
    assert dropped == {"delta_ifd_below_0": 1, "delta_ifd_above_0.8": 1, "delta_ifd_undefined": 1}


def test_the_first_reason_that_holds_is_counted() -> None:
    spec = DistillSelectionSpec(truncated="drop", repetition=0.5, grade="correct", delta_ifd=(0, 0.8))
    looping_and_cut = replace(LOOPING, finish_reason="length", grade=0.0)
    rows = [looping_and_cut, replace(LOOPING, grade=0.0), replace(WRONG), DONE]
    assert select(rows, spec=spec, delta_ifds=[-1.0] * 4).dropped == Counter(
        truncated=1, repetitive=1, graded_wrong=1, delta_ifd_below_0=1
    )


def test_a_window_without_values_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one value per sequence \(6\), got none"):
        select(ALL, spec=DistillSelectionSpec(delta_ifd=(0, 1)))


sequences = st.builds(
    SequenceRecord,
    example_id=st.text(max_size=2), sample=st.integers(0, 3), mode=st.just("fast"), source=st.just("student"),
    prompt_ids=st.just([1]), completion_ids=st.lists(st.integers(0, 2), min_size=1, max_size=40),
    finish_reason=st.sampled_from(["stop", "length"]), grade=st.sampled_from([None, 0.0, 0.5, 1.0]),
)  # fmt: skip
specs = st.builds(
    DistillSelectionSpec,
    truncated=st.sampled_from(["keep", "drop"]), repetition=st.sampled_from([None, 0.1, 0.5]),
    grade=st.sampled_from(["all", "correct", "incorrect"]), delta_ifd=st.sampled_from([None, (0.0, 0.8)]),
)  # fmt: skip
deltas = st.none() | st.floats(-2, 2)


@given(st.lists(st.tuples(sequences, deltas), max_size=12), specs)
def test_nothing_is_lost_order_is_kept_and_twice_is_once(
    rows: list[tuple[SequenceRecord, float | None]], spec: DistillSelectionSpec
) -> None:
    records, values = [row[0] for row in rows], [row[1] for row in rows]
    made = select(records, spec=spec, delta_ifds=values)
    assert len(made.kept) + made.dropped.total() == len(rows)
    assert list(made.kept) == sorted(set(made.kept))
    assert select(records, spec=spec, delta_ifds=values) == made
    again = select([records[i] for i in made.kept], spec=spec, delta_ifds=[values[i] for i in made.kept])
    assert again.kept == tuple(range(len(made.kept)))


def test_the_repeated_share_is_counted_by_hand() -> None:
    # Runs of 2 in a b c a b: only the last `a b` came before, 2 of 5 ids.
    assert repeated_share("abcab", n=2) == 2 / 5
    # a a a a with n = 2: the runs at 1 and 2 came before, ids 1, 2, 3.
    assert repeated_share("aaaa", n=2) == 3 / 4
    # Overlapping repeats count each id once: x y z x y z, runs at 3 and 4, ids 3, 4, 5.
    assert repeated_share("xyzxyz", n=2) == 3 / 6
    assert repeated_share(range(100)) == repeated_share([]) == repeated_share([1] * NGRAM) == 0
    # Period 3 over 48 ids: all but the first period are in a run that began earlier.
    assert repeated_share(LOOP) == 45 / 48


@given(st.lists(st.integers(0, 2), max_size=40), st.integers(1, 5))
def test_the_repeated_share_equals_marking_every_run(ids: list[int], n: int) -> None:
    marked = set()
    for start in range(len(ids) - n + 1):
        run = ids[start : start + n]
        if any(ids[earlier : earlier + n] == run for earlier in range(start)):
            marked |= set(range(start, start + n))
    assert repeated_share(ids, n=n) == (len(marked) / len(ids) if ids else 0)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=10), st.integers(4, 12))
def test_every_long_loop_is_found(period: list[int], times: int) -> None:
    ids = period * times
    assert len(ids) < 4 * NGRAM or repeated_share(ids) > 0.5


def test_no_worked_arithmetic_is_taken_for_a_loop() -> None:
    source = ArithmeticSource(type="arithmetic", terms=(2, 3, 4, 5))
    made = load_examples(source, split="train", count=400, seed=0)
    texts = [f"<think>\n{item.reasoning}\n</think>\n\n{item.answer}" for item in made]
    assert max(map(repeated_share, texts)) < 0.5
    # A derivation that states its equation, solves it and checks it by putting the numbers back in.
    checked = "3x+5=20 so 3x=15 and x=5. Check: 3*5+5=20, and 3x+5=20 holds. The answer is 5, that is x=5."
    assert repeated_share(checked) < 0.2
    looping = checked + " Wait, let me check again: 3*5+5=20." * 12
    assert repeated_share(looping) > 0.5


def test_ifd_is_the_ratio_of_perplexities_without_the_first_token() -> None:
    # Tokens 2..3 have probabilities 1/2 and 1/8 with the prompt, 1/4 and 1/16 without: PPL 4 and 8.
    with_prompt = later_nll([math.log(0.9), math.log(1 / 2), math.log(1 / 8)])
    without = later_nll([math.log(0.01), math.log(1 / 4), math.log(1 / 16)])
    assert ifd(Nll(with_prompt, without)) == pytest.approx(math.sqrt(16) / math.sqrt(64))
    # The student's 0.2 / 0.5 is what it gains, the teacher's 0.5: 0.5 - 0.4.
    student = Nll(conditional=math.log(2), unconditional=math.log(5))
    assert delta_ifd(teacher=Nll(with_prompt, without), student=student) == pytest.approx(0.5 - 0.4)


def test_ifd_is_undefined_for_one_token_and_for_probability_zero() -> None:
    assert later_nll([-1.0]) is None
    assert ifd(Nll(None, None)) is None
    assert ifd(Nll(math.inf, 1.0)) is None
    assert delta_ifd(teacher=Nll(1.0, 1.0), student=Nll(None, None)) is None
    assert ifd(Nll(2000.0, 1.0)) == math.exp(700)
