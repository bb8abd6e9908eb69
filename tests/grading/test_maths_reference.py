"""The grader `maths` beside the verdicts of math-verify's own tests, all of those that ask for a verdict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eyas.records import Example
from eyas.storage.verdicts import judge

pytest.importorskip("math_verify")
CASES = [
    json.loads(line) for line in (Path(__file__).parent / "reference" / "math_verify.jsonl").read_text().splitlines()
]
ON_PURPOSE = {
    ("$9$", "Answer $ \n 9 \n $"): "the test switches plain expressions off; they count here",
    ("$9$", "Answer \\( \n 9 \n \\)"): "the same",
    (
        "$(\\begin{pmatrix}\\frac{1}{3}\\\\ \\frac{1}{5} \\end{pmatrix})$",
        "$\\begin{pmatrix}0.33\\\\0.2 \\end{pmatrix}$",
    ): ("the test rounds to 2 places, the default is 6"),
    ("$(\\frac{3}{5},\\frac{8}{3}]$", "$(0.6,2.6667]$"): "the same",
    (
        "$x \\in [-2,7]$",
        "$-2 \\\\le x \\\\le 7$",
    ): "the test lets a relation answer for a set, which is not the default",
    ("$f(x)$", "$f(y)$"): "the test lets variables be renamed, which is not the default",
}
"""Cases whose test asks for other options than the defaults, which are what the grader has, and needs them."""


def test_every_verdict_is_that_of_the_librarys_own_tests() -> None:
    examples = [Example(key="k", prompt=(("user", "q"),), answer=case["gold"], grader="maths") for case in CASES]
    verdicts = judge([case["text"] for case in CASES], examples)
    differing = [case for case, verdict in zip(CASES, verdicts, strict=True) if verdict != case["right"]]
    unexplained = [case for case in differing if (case["gold"], case["text"]) not in ON_PURPOSE]
    assert unexplained == []
    assert all("options" in case for case in differing)
    assert (len(CASES), len(differing)) == (275, 6)
