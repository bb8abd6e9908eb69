"""Mathematics: references as MATH writes them, with and without their marks."""

from __future__ import annotations

import sys

import pytest

from eyas.errors import MissingExtra
from eyas.grading import extract_answer, grade, maths
from eyas.records import Example

pytest.importorskip("math_verify")


def example(answer: str) -> Example:
    return Example(key="k", prompt=(("user", "q"),), answer=answer, grader="maths")


@pytest.mark.parametrize(
    "answer", ["p - q", "\\frac{14}{3}", "6 - 5i", "x^2+2x+1", "\\left( 3, \\frac{\\pi}{2} \\right)", "42"]
)
def test_a_reference_without_dollars_is_its_own_answer_boxed_or_not(answer: str) -> None:
    assert grade(answer, example(answer)) == 1.0
    assert grade(rf"So we get $\boxed{{{answer}}}$.", example(answer)) == 1.0
    assert grade(r"So we get $\boxed{17}$.", example(answer)) == 0.0


def test_equal_values_are_equal_and_the_box_counts() -> None:
    assert grade(r"$\boxed{0.5}$, not $3$", example("\\frac{1}{2}")) == 1.0
    assert grade(r"$\boxed{(x+1)^2}$", example("x^2+2x+1")) == 1.0
    assert grade("", example("1")) == 0.0
    assert extract_answer(r"$\boxed{1}$ or \boxed{ \frac{1}{ 2} }.", grader="maths") == r"\frac{1}{ 2}"
    assert extract_answer(r"open \boxed{1", grader="maths") == r"open \boxed{1"


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", None)
    maths.load_math_verify.cache_clear()
    with pytest.raises(MissingExtra, match="maths"):
        grade("1", example("1"))
