"""reasoning-gym's verifiers: full marks only, never a crash, never partial credit."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from eyas.errors import GradingError, MissingExtra
from eyas.grading import grade, reasoning_gym
from eyas.records import Example

library = pytest.importorskip("reasoning_gym")
JUNK = ("", "no such answer", "[", "((", "{}", "nan", "1/0", "9" * 400, "[[1, 2], [3]]", "\n\n", "<think>", "💥")


def entry_of(task: str) -> dict[str, Any]:
    entry: dict[str, Any] = library.create_dataset(task, seed=7, size=1)[0]
    return entry


def example(entry: dict[str, Any]) -> Example:
    return Example(
        key="k",
        prompt=(("user", entry["question"]),),
        answer=entry["answer"],
        grader="reasoning_gym",
        metadata=json.dumps(entry),
    )


@pytest.mark.parametrize("task", ["chain_sum", "gcd", "letter_counting", "number_sorting", "prime_factorization"])
def test_the_reference_gets_full_marks_and_junk_gets_none(task: str) -> None:
    entry = entry_of(task)
    assert grade(f" {entry['answer']}\n", example(entry)) == 1.0
    assert [grade(junk, example(entry)) for junk in JUNK] == [0.0] * len(JUNK)


def test_partial_credit_is_not_accuracy() -> None:
    entry = entry_of("spell_backward")
    almost = entry["answer"][:-1] + ("a" if entry["answer"][-1] != "a" else "b")
    assert 0 < library.get_score_answer_fn("spell_backward")(almost, entry) < 1
    assert grade(almost, example(entry)) == 0.0


def test_an_example_that_is_not_reasoning_gyms_is_refused() -> None:
    for metadata in ("", "[]", "{}", '{"metadata": {}}'):
        broken = Example(key="k", prompt=(("user", "q"),), answer="1", grader="reasoning_gym", metadata=metadata)
        with pytest.raises(GradingError, match="needs the task's own entry"):
            grade("1", broken)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    reasoning_gym._scorer.cache_clear()
    with pytest.raises(MissingExtra, match=r"pip install reasoning-gym"):
        grade("1", example({"question": "q", "answer": "1", "metadata": {"source_dataset": "chain_sum"}}))
