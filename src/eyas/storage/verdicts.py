"""Verdicts on answers: the pure graders of eyas.grading, and programs run against their tests, in order."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from eyas.grading import can_grade, grade, may_be_endless
from eyas.grading.code import program_and_tests
from eyas.recipe.graders import function_of
from eyas.records import Example
from eyas.storage.grading_process import PROCESS
from eyas.storage.own_grader import grade_own
from eyas.storage.processor import core_count
from eyas.storage.sandbox import run_code


def judge(answers: Sequence[str], examples: Sequence[Example]) -> list[float | None]:
    """A verdict between 0 and 1 per answer part, in order; None where the example holds nothing to grade by.

    Programs (grader `code`) run in the sandbox, as many at once as there are cores.
    Not for completions cut at the token limit: those have no final answer, and the caller calls them wrong.

    Raises: GradingError, for a grader that does not exist or misses what it needs; MissingExtra; SandboxError.
    """
    pairs = list(zip(answers, examples, strict=True))
    programs = [pair for pair in pairs if pair[1].grader == "code" and can_grade(pair[1])]
    with ThreadPoolExecutor(max_workers=core_count()) as pool:
        passed = iter(list(pool.map(_passes, programs)))
    return [
        next(passed) if example.grader == "code" and can_grade(example) else _verdict(answer, example)
        for answer, example in pairs
    ]


def _verdict(answer: str, example: Example) -> float | None:
    if can_grade(example) and function_of(example.grader) is not None:
        return grade_own(answer, example)
    if can_grade(example) and may_be_endless(example.grader):
        return PROCESS.grade(answer, example)
    return grade(answer, example)


def _passes(pair: tuple[str, Example]) -> float:
    program, tests = program_and_tests(*pair)
    return float(run_code(program, tests=tests).status == "passed")
