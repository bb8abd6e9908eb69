"""reasoning-gym's own verifier of a task's entry."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from eyas.errors import GradingError, MissingExtra
from eyas.records import Example


@cache
def _scorer(task: str) -> Any:
    try:
        import reasoning_gym
    except ImportError as error:
        raise MissingExtra("reasoning-gym", extra="reasoning-gym", purpose="Grading reasoning-gym tasks") from error
    return reasoning_gym.get_score_answer_fn(task)


def grade_reasoning_gym(text: str, example: Example) -> float:
    """1.0 if the task's `score_answer` gives full marks, else 0.0 (partial credit is not accuracy).

    `example.metadata` is the task's own entry as JSON.
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
    try:
        score = score_answer(text.strip(), entry)
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, SyntaxError, RecursionError):
        return 0.0  # some verifiers parse without a guard: prime_factorization raises on any text but a product
    return float(score is not None and score >= 1.0)
