"""Graders: one function per name, from a completion's answer text to right or wrong."""

from __future__ import annotations

from collections.abc import Callable

from eyas.errors import GradingError
from eyas.grading.code import extract_code
from eyas.grading.reasoning_gym import grade_reasoning_gym
from eyas.grading.text import extract_exact, extract_numeric, grade_exact, grade_numeric
from eyas.records import Example

VERSION = 2
"""Raised when any grader's verdicts change; part of every artifact that holds grades."""

Grader = Callable[[str, Example], float]
_GRADERS: dict[str, Grader] = {"numeric": grade_numeric, "exact": grade_exact, "reasoning_gym": grade_reasoning_gym}
_EXTRACTORS: dict[str, Callable[[str], str | None]] = {"numeric": extract_numeric, "code": extract_code}


def extract_answer(text: str, *, grader: str) -> str | None:
    """Final answer of a completion's answer part, normalised so that equal answers compare equal; None if none."""
    return _EXTRACTORS.get(grader, extract_exact)(text)


def can_grade(example: Example) -> bool:
    """Whether the example holds what its grader checks by."""
    return example.answer is not None


def grade(text: str, example: Example) -> float | None:
    """1.0 if the answer part `text` answers `example`, else 0.0; None where the example has no reference answer.

    Raises: GradingError, for a grader that does not exist.
    """
    if not can_grade(example):
        return None
    if example.grader not in _GRADERS:
        raise GradingError(f"grader {example.grader!r} does not exist; known: {', '.join(sorted(_GRADERS))}.")
    return _GRADERS[example.grader](text, example)
