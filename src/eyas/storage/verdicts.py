"""Verdicts on answers: the pure graders of eyas.grading, asked in the order of the answers."""

from __future__ import annotations

from collections.abc import Sequence

from eyas.grading import grade
from eyas.records import Example


def judge(answers: Sequence[str], examples: Sequence[Example]) -> list[float | None]:
    """A verdict between 0 and 1 per answer part, in order; None where the example holds nothing to grade by.

    Not for completions cut at the token limit: those have no final answer, and the caller calls them wrong.

    Raises: GradingError, for a grader that does not exist or misses what it needs; MissingExtra.
    """
    return [grade(answer, example) for answer, example in zip(answers, examples, strict=True)]
