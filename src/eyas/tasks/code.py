"""Records whose answers are programs: the fields of HumanEval and of MBPP."""

from __future__ import annotations

import json
from typing import Any

from eyas.errors import DataError
from eyas.records import Example
from eyas.tasks.texts import text_of


def code_example(row: dict[str, Any], *, where: str) -> Example:
    """An Example for the grader `code`; the answer is the whole reference program, where the record has one.

    HumanEval (arXiv 2107.03374): `prompt`, `entry_point`, `test`, `canonical_solution`. MBPP (arXiv 2108.07732): `text`
    (sanitised: `prompt`), `test_list`, `test_setup_code` (`test_imports`), `code`; its prompt shows the tests, as they
    alone say what the function is called. Anything else: `prompt` and `tests` (a text or a list of texts), and the
    program as `completion`.

    Raises: DataError, starting with `where`.
    """
    task: dict[str, Any]
    if row.get("tests") is not None:
        prompt = _text(row, "prompt", where=where)
        solution, tests = row.get("completion"), _lines(row, "tests", where=where)
        task = {"tests": tests}
    elif "test_list" in row:
        name = "prompt" if row.get("prompt") is not None else "text"
        shown = _lines(row, "test_list", where=where)
        setup = _lines(row, "test_imports", where=where) + _lines(row, "test_setup_code", where=where)
        prompt = f"{_text(row, name, where=where)}\nYour code should pass these tests:\n\n" + "\n".join(shown)
        solution = row.get("completion") or row.get("code")
        tests = [*setup, *shown]
        task = {"tests": tests}
    else:
        prompt = _text(row, "prompt", where=where)
        body = row.get("canonical_solution")
        solution = row.get("completion") or (None if body is None else f"{prompt}{body}")
        tests = _lines(row, "test", where=where)
        task = {
            "tests": tests,
            "entry_point": _text(row, "entry_point", where=where),
            "prompt": prompt,
        }
    if not any(test.strip() for test in tests):
        raise DataError(f"{where}: the tests are empty, so that any program would pass. Leave such records out.")
    solution = solution if isinstance(solution, str) and solution.strip() else None
    if solution is not None:
        text_of({"solution": solution}, "solution", where=where)
    return Example(
        key=" ".join(prompt.split()),
        prompt=(("user", prompt),),
        answer=solution,
        grader="code",
        metadata=json.dumps(task),
    )


def _text(row: dict[str, Any], field: str, *, where: str) -> str:
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: `{field}` must be text for the grader `code`, found {type(value).__name__}.")
    text_of(row, field, where=where)
    return value


def _lines(row: dict[str, Any], field: str, *, where: str) -> list[str]:
    value = row.get(field) or []
    lines = [value] if isinstance(value, str) else value
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise DataError(f"{where}: `{field}` must be text or a list of texts, found {type(value).__name__}.")
    return lines
