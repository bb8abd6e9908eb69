"""JSON is compared as values, patterns are searched for a bounded time, normalised text is SQuAD's."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas.grading import can_grade, extract_answer, grade
from eyas.records import Example

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def example(answer: str, grader: str) -> Example:
    return Example(key="k", prompt=(("user", "q"),), answer=answer, grader=grader)


@pytest.mark.parametrize(
    ("text", "reference", "verdict"),
    [
        ('{"b": 2, "a": 1}', '{"a":1,"b":2}', 1), ("[1, 2]", "[2, 1]", 0), ("1.0", "1", 1), ("10e-1", "1", 1),
        ("100", "1e2", 1), ("0.1", "0.10", 1), ("-0", "0", 1), ("true", "1", 0), ("false", "0", 0), ("null", "0", 0),
        ('"1"', "1", 0), ('```json\n{"a": [1, {"b": null}]}\n```', '{"a": [1.0, {"b": null}]}', 1),
        ("Here it is:\n```\n[1]\n```\nDone.", "[1]", 1), ("```json\n[2]\n```\nno:\n```json\n[1]\n```", "[1]", 1),
        ('{"a": 1, "a": 1}', '{"a": 1}', 0), ("[NaN]", "[1]", 0), ("{'a': 1}", '{"a": 1}', 0), ("", "[]", 0),
        ("[1,]", "[1]", 0), ('"\\u00e9"', '"é"', 1), ("[" * 100_000, "[]", 0), ("1e" + "9" * 30, "1", 0),
        ("9007199254740993", "9007199254740992", 0), ("[]", "{}", 0), ("{}", '{"a": null}', 0),
    ],
)  # fmt: skip
def test_json_is_equal_by_value(text: str, reference: str, verdict: int) -> None:
    assert grade(text, example(reference, "json")) == verdict


@given(VALUES)
def test_a_value_equals_itself_however_it_is_written(value: object) -> None:
    written = json.dumps(value)
    for form in (written, json.dumps(value, indent=2, ensure_ascii=False), f"```json\n{written}\n```"):
        assert grade(form, example(written, "json")) == 1.0


@given(VALUES, VALUES)
def test_json_equality_is_that_of_python_but_for_truth_values(one: object, other: object) -> None:
    def tagged(value: object) -> object:
        if isinstance(value, list):
            return [tagged(item) for item in value]
        if isinstance(value, dict):
            return {key: tagged(item) for key, item in value.items()}
        return (isinstance(value, bool), value)

    same = grade(json.dumps(one), example(json.dumps(other), "json")) == 1.0
    assert same == (tagged(one) == tagged(other))


def test_a_pattern_is_searched_in_the_answer() -> None:
    assert grade("on 2024-05-06.", example(r"\d{4}-\d\d-\d\d", "regex")) == 1.0
    assert grade("on 2024-05-06.", example(r"^\d{4}-\d\d-\d\d$", "regex")) == 0.0
    assert grade(" 2024-05-06\n", example(r"^\d{4}-\d\d-\d\d$", "regex")) == 1.0
    assert grade("PARIS", example("(?i)paris|lutetia", "regex")) == 1.0


def test_a_catastrophic_pattern_is_given_up() -> None:
    started = time.monotonic()
    assert grade("a" * 5000 + "c", example(r"^(a|aa|b?a)*(a|aa|c?a)*d$", "regex")) == 0.0
    assert time.monotonic() - started < 10


def test_a_reference_that_cannot_be_used_gives_no_verdict() -> None:
    for answer, grader in (("(", "regex"), ("{'a': 1}", "json"), ("The ...", "normalised")):
        assert not can_grade(example(answer, grader))
        assert grade("anything", example(answer, grader)) is None


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("The  Eiffel-Tower!", "eiffeltower"), ("an apple, a pear and THE plum.", "apple pear and plum"),
        ("theatre", "theatre"), ("U.S.A.", "usa"), ("the", None), ("", None), ("1,000", "1000"),
    ],
)  # fmt: skip
def test_normalised_as_squad_does(text: str, normalised: str | None) -> None:
    assert extract_answer(text, grader="normalised") == normalised


def test_normalised_grades_up_to_case_punctuation_and_articles() -> None:
    assert grade("the eiffel tower.", example("Eiffel Tower", "normalised")) == 1.0
    assert grade("eiffel", example("Eiffel Tower", "normalised")) == 0.0
    assert grade("", example("Eiffel Tower", "normalised")) == 0.0
