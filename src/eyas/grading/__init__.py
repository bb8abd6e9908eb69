"""Graders: one function per name, from a completion's answer text to right or wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from eyas.errors import GradingError
from eyas.grading.choice import extract_choice, grade_choice
from eyas.grading.code import extract_code
from eyas.grading.instructions import can_check, grade_instructions
from eyas.grading.maths import extract_maths, grade_maths, load_math_verify
from eyas.grading.reasoning_gym import grade_reasoning_gym, load_reasoning_gym
from eyas.grading.structured import can_search, extract_json, grade_json, grade_regex
from eyas.grading.text import (
    extract_exact,
    extract_normalised,
    extract_numeric,
    grade_exact,
    grade_normalised,
    grade_numeric,
)
from eyas.recipe.graders import grader_spec, unknown_grader
from eyas.records import Example

VERSION = 6
"""Raised when any grader's verdicts change; part of every artifact that holds grades."""


@dataclass(frozen=True)
class _Grader:
    """What a name of `eyas.recipe.graders.GRADERS` does."""

    grade: Callable[[str, Example], float] | None
    """None where a verdict needs the disk or a process: `eyas.storage.verdicts` gives it."""
    extract: Callable[[str], str | None] = extract_exact
    """The final answer in a form in which equal answers compare equal."""
    usable: Callable[[Example], bool] | None = None
    """Whether the example's reference can be checked by; None where any text can."""
    load: Callable[[], object] | None = None
    """Imports the library of a grader that evaluates what a model wrote, and so may take years; None for others."""


def _extracts(extract: Callable[[str], str | None]) -> Callable[[Example], bool]:
    return lambda example: extract(example.answer or "") is not None


GRADERS = {
    "numeric": _Grader(grade_numeric, extract_numeric),
    "maths": _Grader(grade_maths, extract_maths, load=load_math_verify),
    "exact": _Grader(grade_exact),
    "normalised": _Grader(grade_normalised, extract_normalised, usable=_extracts(extract_normalised)),
    "choice": _Grader(grade_choice, extract_choice, usable=_extracts(extract_choice)),
    "regex": _Grader(grade_regex, usable=can_search),
    "json": _Grader(grade_json, extract_json, usable=_extracts(extract_json)),
    "reasoning_gym": _Grader(grade_reasoning_gym, load=load_reasoning_gym),
    "instructions": _Grader(grade_instructions, usable=can_check),
    "code": _Grader(None, extract_code),
}


def may_be_endless(grader: str) -> bool:
    """Whether a grader may take years over an answer, so that it must be asked in a process that can be ended."""
    return grader in GRADERS and GRADERS[grader].load is not None


def load(grader: str) -> None:
    """Import what a grader needs, so that the time of its first answer is the answer's own.

    Raises: MissingExtra.
    """
    known = GRADERS.get(grader)
    if known is not None and known.load is not None:
        known.load()


def extract_answer(text: str, *, grader: str) -> str | None:
    """Final answer of a completion's answer part, normalised so that equal answers compare equal; None if none."""
    known = GRADERS.get(grader)
    found = extract_exact(text) if known is None else known.extract(text)
    return found if found is not None and found.strip() else None


def can_grade(example: Example) -> bool:
    """Whether the example holds what its grader checks by, in a form that the grader can use.

    A reference that is not JSON, not a letter or not a pattern that compiles is none for `json`, `choice` or `regex`.
    """
    known = GRADERS.get(example.grader)
    if known is not None and known.usable is not None:
        return known.usable(example)
    spec = grader_spec(example.grader)
    by_metadata = spec is not None and spec.needs_metadata
    return example.answer is not None or (by_metadata and bool(example.metadata))


def grade(text: str, example: Example) -> float | None:
    """1.0 if the answer part `text` answers `example`, else 0.0; None where the example holds nothing to grade by.

    Raises: GradingError, for a grader that does not exist or that only `eyas.storage.verdicts` can ask.
    """
    if not can_grade(example):
        return None
    if grader_spec(example.grader) is None:
        raise GradingError(unknown_grader(example.grader))
    known = GRADERS.get(example.grader)
    if known is None or known.grade is None:
        raise GradingError(f"grader {example.grader!r} is no pure function; ask eyas.storage.verdicts.judge.")
    return known.grade(text, example)
