"""Held-out splits: distinct, gradable, the same for every seed, and held in memory: a recipe says how many."""

from __future__ import annotations

from collections.abc import Sequence

from eyas.errors import DataError
from eyas.filtering import Drop, EvaluationSet, Rules, filtered
from eyas.grading import can_grade
from eyas.recipe.graders import grader_spec
from eyas.recipe.sources import HeldOut
from eyas.records import Example
from eyas.storage.verdicts import judge
from eyas.tasks import load_examples
from eyas.tasks.mapping import BadRecords

EVALUATION_SEED = 0
"""Test, validation and off-task problems do not depend on the recipe's seed: runs over seeds share them."""


def load_held_out(wanted: HeldOut, *, bad: BadRecords | None = None) -> list[Example]:
    """All examples of an evaluation set, as the source gives them.

    Raises: as `load_examples`.
    """
    return list(load_examples(wanted.source, split=wanted.split, count=wanted.count, seed=EVALUATION_SEED, bad=bad))


def screened_held_out(
    wanted: HeldOut, *, known: Sequence[Example], rules: Rules, bad: BadRecords
) -> list[tuple[Example, Drop | None]]:
    """Each example, with the reason to drop what is no distinct answered problem or is in `known`.

    Without any answer, validation is on prompts alone: a divergence asks for no more.

    Raises: as `load_examples`.
    """
    found = filtered(load_held_out(wanted, bad=bad), evaluation=EvaluationSet(known), rules=rules)
    judged = [
        (example, drop or (None if can_grade(example) else Drop("no_answer_to_grade_by"))) for example, drop in found
    ]
    if wanted.split == "validation" and all(drop is not None for _, drop in judged):
        return [
            (example, before if example.answer is None else after)
            for (example, before), (_, after) in zip(found, judged, strict=True)
        ]
    return judged


def rejected_by_their_grader(test: Sequence[Example]) -> int:
    """How many reference answers their own grader calls wrong, where the reference is an answer.

    Raises: DataError, if all of them: every accuracy would be 0.
    """
    test = [example for example in test if example.answer is not None and _accepts_reference(example.grader)]
    verdicts = judge([example.answer or "" for example in test], test)
    rejected = [example for example, verdict in zip(test, verdicts, strict=True) if verdict != 1.0]
    if test and len(rejected) == len(test):
        first = rejected[0]
        raise DataError(
            f"the grader {first.grader!r} accepts none of the {len(test)} reference answers of the test split, "
            f"for instance {(first.answer or '')[:80]!r}. "
            "Choose another `grader` in the source, for instance `exact` (docs/graders.md)."
        )
    return len(rejected)


def _accepts_reference(grader: str) -> bool:
    spec = grader_spec(grader)
    return spec is None or spec.accepts_reference
