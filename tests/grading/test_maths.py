"""Mathematics: the verdicts of math-verify's own tests, references as MATH writes them, and bounded time."""

from __future__ import annotations

import sys
import threading
import time

import pytest

from eyas.errors import GradingError, MissingExtra
from eyas.grading import extract_answer, grade, maths
from eyas.records import Example

pytest.importorskip("math_verify")

REFERENCE_VERDICTS = [
    ("-5", "-5", 1), ("7425000", "7,425,000", 1), ("1000", "1000.0", 1), ("1000.0", "1,000.0", 1), ("0.4", ".4", 1),
    ("1000.99", "1,000.99", 1), ("1000.99", "the number is not 10 which is 1,000.99€", 1), ("2", "AZYUK2A", 0),
    ("10/9", "\\frac{10}{9}", 1), ("-10/9", "-\\frac{10}{9}", 1), ("$[0,1)$", "$[0,1)$", 1), ("$[0,9)$", "$[0,1)$", 0),
    ("$(0,9)$", "$[0,9)$", 0), ("$1$", "$-[0,1)$", 0), ("$9$", "Answer \\[ 9 \\]", 1), ("$9$", "Answer $ 9 $", 1),
    ("$9$", "Answer \\( 9 \\)", 1), ("$10$", "Answer \\( (9+1) \\)", 1), ("$1/3$", "$\\frac13 $", 1),
    ("$1$", "$\\frac3{3} $", 1), ("$\\sqrt{3}$", "$\\sqrt3 $", 1), ("$1/3$", "$\\dfrac{1}{3} $", 1),
    ("$1/3$", "$\\left( \\frac{1}{3} \\right)$", 1), ("$1/3$", "$\\boxed{\\frac{1}{3}}$", 1),
    ("$1/3$", "$\\frac{1}{3} \\text{meters}$", 1), ("$1/3$", "$k = \\frac{1}{3}$", 1), ("$28\\%$", "28 percent", 1),
    ("$28\\%$", "28 %", 1), ("$28\\%$", "$\\boxed{28 pct}", 1), ("$-2,1$", "the roots are $\\boxed{-2,1}.$", 1),
    ("$204_5$", "for a quotient of $\\boxed{204_5}$. Note that", 1),
    ("$(6,31,-1)$", "$(p,q,r) = \\boxed{(6,31,-1)}.$", 1),
    ("$1 \\pm \\sqrt{19}$", "$x = \\boxed{1 \\pm \\sqrt{19}}.$", 1),
    ("$\\frac{9}{4}\\pi$", "Therefore $\\boxed{\\frac94\\pi}$.", 1),
    ("$2 \\sin b \\cos a$", "$\\boxed{2 \\sin b \\cos a}.$", 1), ("$(p,q)=(3,2)$", "$(3,2)$", 1),
    ("$AB=4,CD=5$", "$\\boxed{4, 5}$", 1), ("$V_{1}:V_{2}=11:21$", "$11:21$", 1), ("$f(x)$", "$f(y)$", 0),
    ("$f(2) < f(1) < f(4)$", "Hence, $\\boxed{f(2) < f(1) < f(4)}.$", 1),
    ("$(11,7)or(7,11)$", "$\\boxed{(7,11),\\ (11,7)}$", 1),
]  # fmt: skip
"""(gold, prediction, expected) of tests/test_all.py, test_numina_cases.py and test_strict.py in
https://github.com/huggingface/Math-Verify at 5d148cfaaf99 (Apache-2.0)."""


def example(answer: str) -> Example:
    return Example(key="k", prompt=(("user", "q"),), answer=answer, grader="maths")


@pytest.mark.parametrize(("gold", "text", "expected"), REFERENCE_VERDICTS)
def test_verdicts_agree_with_the_librarys_own_tests(gold: str, text: str, expected: int) -> None:
    assert grade(text, example(gold)) == expected


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


def test_a_number_beyond_reach_is_wrong_in_bounded_time() -> None:
    started = time.monotonic()
    assert grade("$100000000!$", example("3")) == 0.0
    assert time.monotonic() - started < 20


def test_another_thread_is_refused() -> None:
    raised: list[GradingError] = []

    def ask() -> None:
        with pytest.raises(GradingError, match="main thread") as caught:
            grade("1", example("1"))
        raised.append(caught.value)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert raised


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", None)
    maths._library.cache_clear()
    with pytest.raises(MissingExtra, match="maths"):
        grade("1", example("1"))
