"""Numbers and short texts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eyas.errors import GradingError
from eyas.grading import extract_answer, grade
from eyas.records import Example


def example(answer: str, grader: str = "numeric") -> Example:
    return Example(key="k", prompt=(("user", "q"),), answer=answer, grader=grader)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("42", "42"), ("The answer is 42.", "42"), ("so $1,200.50", "1200.5"), ("-7", "-7"), ("−7", "-7"),
        ("3.0", "3"), ("first 3, then 4", "4"), ("-0", "0"), (".5", "0.5"), ("100", "100"), ("none", None),
        ("10-12", "12"), ("x = 5-3", "3"), ("(2)-3", "3"), ("is -$5", "-5"), ("it is: -5.", "-5"), ("1,2,3", "3"),
        ("5,", "5"),
        ("1,234,567", "1234567"), ("$0.50", "0.5"), ("007", "7"), ("", None), ("-", None), ("1e4000", "4000"),
        ("1.5e3", "1500"), ("2E-3", "0.002"), ("1e23", "1" + "0" * 23), ("-1e2 m", "-100"),
        ("it has 3 e2 e-mails", "2"),
        (r"\boxed{1{,}000}", "1000"), (r"10,\!000", "10000"), (r"1\,000\,000", "1000000"), ("v1.2.3", "3"),
    ],
)  # fmt: skip
def test_the_last_number_in_plain_notation(text: str, number: str | None) -> None:
    assert extract_answer(text, grader="numeric") == number


def test_numeric_grades_by_value() -> None:
    assert grade("it is 1,000", example("1000")) == 1.0
    assert grade("it is 1001", example("1000")) == 0.0
    assert grade("", example("1000")) == 0.0


def test_exact_ignores_case_and_spaces_only() -> None:
    assert grade(" New  york", example("New York", "exact")) == 1.0
    assert grade("York", example("New York", "exact")) == 0.0


def test_exact_is_the_same_for_composed_and_decomposed_letters() -> None:
    assert grade("Cafe\u0301", example("caf\u00e9", "exact")) == 1.0
    assert grade("Cafe", example("caf\u00e9", "exact")) == 0.0


def test_without_a_reference_nothing_is_graded() -> None:
    assert grade("4", Example(key="k", prompt=(("user", "q"),))) is None


def test_an_unknown_grader_is_named() -> None:
    with pytest.raises(GradingError, match=r"'guess' does not exist; known: .*exact.*numeric"):
        grade("4", example("4", "guess"))


def test_an_answer_counts_only_where_it_is_last() -> None:
    assert grade("4 is wrong, it is 5", example("4")) == 0.0


@settings(deadline=None)
@given(st.text())
def test_no_text_breaks_a_grader(text: str) -> None:
    for grader in ("numeric", "exact", "normalised"):
        assert grade(text, example("4", grader)) in (0.0, 1.0)


@settings(deadline=None)
@given(st.integers())
def test_an_integer_is_its_own_answer_with_or_without_commas(number: int) -> None:
    assert grade(f"The answer is {number:,}.", example(str(number))) == 1.0
