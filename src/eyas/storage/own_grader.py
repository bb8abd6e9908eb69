"""A grader of the user's own: one Python function in a file that the source names."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from eyas.errors import GradingError
from eyas.recipe.graders import function_of
from eyas.records import Example


def file_of(grader: str) -> Path | None:
    """The file that holds the user's function; None for a grader of eyas."""
    found = function_of(grader)
    return None if found is None else Path(found[0]).expanduser()


@cache
def load_grader(grader: str) -> Callable[[str, Example], Any]:
    """The function of `path/to/file.py:function`; its file is run once a process, with this process's rights.

    Raises: GradingError, if the file cannot be read or run, or has no such function.
    """
    path, name = file_of(grader), grader.rpartition(":")[2]
    if path is None or not path.is_file():
        raise GradingError(f"grader {grader!r}: the file does not exist. Expected path/to/file.py:function.")
    spec = importlib.util.spec_from_file_location(f"eyas_grader_{hashlib.sha256(bytes(path)).hexdigest()[:16]}", path)
    if spec is None or spec.loader is None:
        raise GradingError(
            f"grader {grader!r}: the file cannot be loaded as Python. Expected path/to/file.py:function."
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise GradingError(f"grader {grader!r}: the file cannot be run: {_said(error, path)}.") from error
    function: Callable[[str, Example], Any] | None = getattr(module, name, None)
    if function is None or not callable(function):
        has = ", ".join(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
        raise GradingError(f"grader {grader!r}: the file has no function {name!r}; it has: {has or 'none'}.")
    return function


def grade_own(answer: str, example: Example) -> float:
    """What the user's function says of an answer: True, False, or a number from 0 to 1.

    Raises: GradingError, if it says anything else or raises anything.
    """
    function = load_grader(example.grader)
    try:
        verdict = function(answer, example)
    except (Exception, SystemExit) as error:
        said = _said(error, file_of(example.grader))
        raise GradingError(
            f"grader {example.grader!r} failed on the answer {answer[:60]!r}: {said}. Return False for an "
            "answer that it cannot read."
        ) from error
    if (
        not isinstance(verdict, bool | int | float | np.bool_ | np.integer | np.floating)
        or not isfinite(verdict)
        or not 0 <= verdict <= 1
    ):
        raise GradingError(
            f"grader {example.grader!r} returned {str(verdict)[:60]!r} ({type(verdict).__name__}) for the answer "
            f"{answer[:60]!r}; expected True, False or a number from 0 to 1."
        )
    return float(verdict)


def _said(error: BaseException, path: Path | None) -> str:
    """Kind and message of an error, and the last line of the user's file that led to it."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{type(error).__name__}: {error}" + (f" (line {lines[-1]})" if lines else "")
