"""The grader `instructions` beside IFEval's own code, on every instruction."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eyas.grading import grade, instructions
from eyas.records import Example

pytest.importorskip("if_verifiable")
QUESTIONS = [
    json.loads(line) for line in (Path(__file__).parent / "reference" / "ifeval.jsonl").read_text().splitlines()
]


@pytest.mark.usefixtures("sentence_model")
def test_verdicts_are_those_of_ifevals_own_code() -> None:
    """Google's code as lm-evaluation-harness carries it, asked here; NLTK's model in its format, almost empty."""
    from lm_eval.tasks.ifeval import utils  # downloads NLTK's model if it finds none

    constraints = [(row["instruction"], row["settings"]) for row in QUESTIONS if "instruction" in row]
    responses = [row["response"] for row in QUESTIONS if "response" in row]
    prompt, differing, followed = "Write about rain.", [], 0
    for name, settings in constraints:
        metadata = json.dumps({"instruction_id_list": [name], "kwargs": [settings]})
        example = Example(key="k", prompt=(("user", prompt),), grader="instructions", metadata=metadata)
        asked = utils.InputExample(key=1, instruction_id_list=[name], prompt=prompt, kwargs=[settings])
        for response in responses:
            follows = utils.test_instruction_following_strict(asked, response).follow_all_instructions
            followed += follows
            if grade(response, example) != float(follows):
                differing.append((name, settings, response))
    assert differing == []
    assert {name for name, _ in constraints} == set(instructions.load_if_verifiable()[1])
    assert (len(constraints) * len(responses), followed) == (1764, 460)
