"""Verdicts come in the order of the answers, and a cut completion is wrong where there is something to grade by."""

from __future__ import annotations

import pytest

from eyas.engines.respondent import _verdicts
from eyas.errors import GradingError
from eyas.records import Example
from eyas.storage.verdicts import judge


def example(answer: str | None, grader: str = "numeric") -> Example:
    return Example(key=f"{answer}{grader}", prompt=(("user", "?"),), answer=answer, reasoning=None, grader=grader)


def test_verdicts_come_in_the_order_of_the_answers() -> None:
    examples = [example("7"), example(None), example("up", "exact"), example("8")]
    assert judge(["it is 7", "anything", "UP", "9"], examples) == [1.0, None, 1.0, 0.0]
    assert judge([], []) == []


def test_an_unknown_grader_is_an_error() -> None:
    with pytest.raises(GradingError, match=r"known: .*numeric"):
        judge(["7"], [example("7", "nummeric")])


def test_a_cut_completion_is_wrong_and_an_unanswered_one_has_no_verdict() -> None:
    jobs = [(example("7"), "fast", 0), (example(None), "fast", 0), (example("7"), "fast", 1), (example("8"), "fast", 0)]
    assert _verdicts([None, None, "7", "7"], jobs) == [0.0, None, 1.0, 0.0]
