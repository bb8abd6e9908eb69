"""reasoning-gym's own verifier of a task's entry."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

from eyas.errors import GradingError, MissingExtra
from eyas.records import Example


@cache
def load_reasoning_gym() -> Any:
    """The package.

    Raises: MissingExtra.
    """
    try:
        import reasoning_gym
    except ImportError as error:
        raise MissingExtra("reasoning-gym", extra="reasoning-gym", purpose="Grading reasoning-gym tasks") from error
    return reasoning_gym


@cache
def _scorer(task: str) -> Any:
    return load_reasoning_gym().get_score_answer_fn(task)


def grade_reasoning_gym(text: str, example: Example) -> float:
    """1.0 if the task's `score_answer` gives full marks, else 0.0 (partial credit is not accuracy).

    `example.metadata` is the task's own entry as JSON, which knows no tuples: some verifiers (arc_agi, rearc) compare
    with tuples, so an answer may be right by the entry as it is or with tuples for lists.
    Not bounded in time, and some verifiers evaluate the answer as Python: `eyas.storage.verdicts.judge` asks in a
    process of its own.

    Raises: GradingError, if the metadata are not a task's entry; MissingExtra.
    Source: https://github.com/open-thought/reasoning-gym, `ProceduralDataset.score_answer`.
    """
    try:
        entry = json.loads(example.metadata)
        task = entry["metadata"]["source_dataset"]
    except (ValueError, KeyError, TypeError) as error:
        raise GradingError(
            "the grader 'reasoning_gym' needs the task's own entry as metadata; use `numeric` or `exact` for files."
        ) from error
    score_answer = _scorer(task)
    with_tuples = {**entry, "metadata": _tuples(entry["metadata"])}
    return float(any(_full_marks(score_answer, text.strip(), form) for form in (entry, with_tuples)))


def _full_marks(score_answer: Callable[[str, Any], float | None], text: str, entry: dict[str, Any]) -> bool:
    try:
        score = score_answer(text, entry)
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, SyntaxError, RecursionError):
        return False  # some verifiers parse without a guard: prime_factorization raises on any text but a product
    return score is not None and score >= 1.0


def _tuples(value: Any) -> Any:
    """JSON with a tuple for every list."""
    if isinstance(value, list):
        return tuple(map(_tuples, value))
    return {key: _tuples(item) for key, item in value.items()} if isinstance(value, dict) else value
