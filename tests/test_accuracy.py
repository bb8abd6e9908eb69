from __future__ import annotations

import pytest

from eyas.accuracy import accuracy, breakdown, by_mode, pass_at
from eyas.proportions import wilson
from eyas.records import Mode, SequenceRecord


def answer(
    example: str, sample: int, grade: float | None, *, mode: Mode = "fast", tokens: int = 4, cut: bool = False
) -> SequenceRecord:
    return SequenceRecord(
        example_id=example, sample=sample, mode=mode, source="student", prompt_ids=[1], completion_ids=[2] * tokens,
        finish_reason="length" if cut else "stop", grade=grade,
    )  # fmt: skip


FOUR = [answer("a", at, grade) for at, grade in enumerate((1.0, 1.0, 0.0, 0.0))]
NONE = [answer("b", at, 0.0, tokens=8, cut=at == 0) for at in range(4)]
ALL = [answer("c", at, 1.0) for at in range(4)]


def test_accuracy_counts_examples_not_answers() -> None:
    # Means 0.5, 0, 1: 0.5; variance (0 + 0.25 + 0.25) / 2, worth 0.25 / (0.25 / 3) = 3 answers of 12.
    found = accuracy(FOUR + NONE + ALL)
    assert (found["value"], found["n"]) == (0.5, 3)
    assert (found["low"], found["high"]) == pytest.approx(wilson(1.5, 3))
    assert found["mean_tokens"] == pytest.approx((4 + 8 + 4) / 3)
    assert found["truncated"] == pytest.approx(1 / 12)


def test_pass_at_k_is_averaged_over_examples() -> None:
    # k = 2: a: 1 - C(2,2) / C(4,2) = 5/6; b: 0; c: 1.
    found = pass_at(FOUR + NONE + ALL, (1, 2, 4))
    assert found["1"]["value"] == pytest.approx(0.5)
    assert found["2"]["value"] == pytest.approx((5 / 6 + 0 + 1) / 3)
    assert found["4"]["value"] == pytest.approx(2 / 3)
    assert all(item["low"] < item["value"] < item["high"] and item["n"] == 3 for item in found.values())
    assert found["1"] == {key: accuracy(FOUR + NONE + ALL)[key] for key in ("value", "low", "high", "n")}


def test_the_breakdown_leaves_out_examples_without_a_class_and_says_length_and_truncation() -> None:
    found = breakdown(FOUR + NONE + ALL, {"a": "hard", "b": "hard", "c": ""})
    assert list(found) == ["fast"]
    assert list(found["fast"]) == ["hard"]
    assert found["fast"]["hard"] == accuracy(FOUR + NONE)
    assert found["fast"]["hard"]["truncated"] == pytest.approx(1 / 8)


def test_an_answer_without_a_grade_is_not_right_and_modes_are_kept_apart() -> None:
    answers = [answer("a", 0, None), answer("a", 0, 1.0, mode="reasoning")]
    parts = by_mode(answers)
    assert {mode: accuracy(part)["value"] for mode, part in parts.items()} == {"fast": 0.0, "reasoning": 1.0}
