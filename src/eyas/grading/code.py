"""Python answers: which code a completion holds, and the program and tests that judge it. Nothing is run here."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from eyas.errors import GradingError
from eyas.records import Example

_FENCE = re.compile(r"^[ \t]*```[ \t]*(\w*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.MULTILINE | re.DOTALL)
"""A block that never closes reaches to the end."""
_AFTER_THE_FUNCTION = re.compile(r"\n(?:class|def|#|if|print|@)")
"""Where a completion of a function's body ends: the stop sequences of arXiv 2107.03374, section 3.1, and decorators."""


def extract_code(text: str, *, entry_point: str = "") -> str:
    """The last fenced Python block that defines `entry_point`, else the last block, else the text as it is."""
    blocks: list[tuple[str, str]] = [(language.lower(), body) for language, body in _FENCE.findall(text)]
    python = [body for language, body in blocks if language in ("", "python", "python3", "py")]
    chosen = python or [body for _, body in blocks]
    defining = [body for body in chosen if _defines(body, entry_point)]
    return (defining or chosen or [text])[-1]


def program_and_tests(text: str, example: Example) -> tuple[str, str]:
    """What to run for an answer part: the program, and the tests that follow it in the same module.

    The example's metadata is JSON with `tests` (a text or a list of texts) and, HumanEval's way, `prompt` (code that
    the answer continues, or that precedes a whole function) and `entry_point` (given to the tests' `check`).

    Raises: GradingError, if the metadata holds no tests.
    """
    task = _task_of(example)
    prompt, entry_point, tests = task.get("prompt") or "", task.get("entry_point") or "", task["tests"]
    code = extract_code(text, entry_point=entry_point)
    if prompt and not _defines(code, entry_point):
        body = _AFTER_THE_FUNCTION.split(code, maxsplit=1)[0]
        code = prompt + (body if body[:1].isspace() else f"    {body}")
    elif prompt:
        code = f"{_complete(prompt)}\n{code}"
    tests = tests if isinstance(tests, str) else "\n".join(tests)
    if entry_point and _defines(tests, "check"):
        tests += f"\ncheck({entry_point})\n"
    return code, tests


def _task_of(example: Example) -> dict[str, Any]:
    try:
        task = json.loads(example.metadata)
    except ValueError:
        task = None
    if not isinstance(task, dict) or not task.get("tests"):
        raise GradingError(
            f"the grader 'code' found no tests in the metadata of {example.prompt[-1][1][:80]!r}; it needs the fields "
            "of HumanEval (`prompt`, `entry_point`, `test`) or of MBPP (`text`, `test_list`) in each record."
        )
    return task


def _defines(code: str, name: str) -> bool:
    return bool(name) and re.search(rf"^(?:async )?(?:def|class) +{re.escape(name)}\b", code, re.MULTILINE) is not None


def _complete(prompt: str) -> str:
    """The prompt's imports and helpers, ready for a function that is defined anew; empty if it does not parse."""
    for candidate in (prompt, f"{prompt}\n    pass\n"):
        try:
            ast.parse(candidate)
        except SyntaxError:
            continue
        return candidate
    return ""
