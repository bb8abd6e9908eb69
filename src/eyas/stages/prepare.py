"""Prepare: load, filter and split examples, and take the answers off the unlabelled prompts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from typing import Any

from eyas.errors import DataError
from eyas.filtering import Drop, EvaluationSet, filtered
from eyas.grading import can_grade
from eyas.recipe import PrepareStage
from eyas.recipe.graders import grader_spec
from eyas.records import Example, Split
from eyas.storage.artifacts import atomic_path
from eyas.storage.context import StageContext
from eyas.storage.shards import write_shard
from eyas.storage.verdicts import judge
from eyas.tasks import load_examples
from eyas.tasks.mapping import BadRecords

SHARD = 20_000
EVALUATION_SEED = 0
"""Test, validation and off-task problems do not depend on the recipe's seed: runs over seeds share them."""
TOP_UPS = 3
"""How often more is asked of a source for what was dropped; each time what the yield so far says is needed."""
Dropped = dict[str, str]


def run(stage: PrepareStage, context: StageContext) -> dict[str, Any]:
    """Write `examples/SPLIT/`, and `dropped.jsonl` with the reason for each dropped example.

    Raises: DataError, if a split is empty or its answers cannot be graded; whatever `load_examples` raises.
    """
    context.progress.start(stage.labelled + stage.unlabelled + stage.validation + stage.test, unit="examples")
    bad = BadRecords()
    test, dropped = _held_out(stage, "test", stage.test, known=[], bad=bad)
    validation, dropped_validation = _held_out(stage, "validation", stage.validation, known=test, bad=bad)
    rejected = _rejected_by_their_grader(test)
    context.progress.advance(len(test) + len(validation))
    kept, dropped_training = _training(stage, seed=context.recipe.seed, held_out=[*test, *validation], bad=bad)
    context.progress.advance(stage.labelled + stage.unlabelled)
    dropped += dropped_validation + dropped_training
    for name, found in {"test": test, "validation": validation, "training": kept}.items():
        if not found:
            raise DataError(_nothing_left(name, dropped))
    labelled = [example for example in kept if example.answer is not None][: stage.labelled]
    taken = {example.id for example in labelled}
    unlabelled = [_without_answer(example) for example in kept if example.id not in taken][: stage.unlabelled]
    splits: dict[Split, list[Example]] = {
        "labelled": labelled,
        "unlabelled": unlabelled,
        "validation": validation,
        "test": test,
        "off_task": _off_task(stage, bad=bad),
    }
    dropped += [{"id": "", "split": "", "reason": "malformed", "error": error} for error in bad.found.values()]
    for split, examples in splits.items():
        directory = context.directory / "examples" / split
        for index, start in enumerate(range(0, len(examples), SHARD)):
            write_shard(directory, index, examples[start : start + SHARD], kind=Example)
    with atomic_path(context.directory / "dropped.jsonl") as draft:
        draft.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in dropped))
    return {
        "source": stage.source.type,
        "counts": {split: len(examples) for split, examples in splits.items()},
        "asked": {name: getattr(stage, name) for name in ("labelled", "unlabelled", "validation", "test")},
        "dropped": dict(Counter(row["reason"] for row in dropped)),
        "answered": len(labelled),
        "answered_validation": sum(map(can_grade, validation)),
        "test_answers_rejected_by_their_grader": rejected,
    }


def _held_out(
    stage: PrepareStage, split: Any, count: int, *, known: Sequence[Example], bad: BadRecords
) -> tuple[list[Example], list[Dropped]]:
    """Distinct answered problems of a held-out split, none of which is in `known`.

    Without any answer, validation is on prompts alone: a divergence asks for no more.
    """
    loaded = list(load_examples(stage.source, split=split, count=count, seed=EVALUATION_SEED, bad=bad))
    found = list(filtered(loaded, evaluation=EvaluationSet(known)))
    judged = [
        (example, drop or (None if can_grade(example) else Drop("no_answer_to_grade_by"))) for example, drop in found
    ]
    if split == "validation" and all(drop is not None for _, drop in judged):
        judged = [(example, before if example.answer is None else after)
                  for (example, before), (_, after) in zip(found, judged, strict=True)]  # fmt: skip
    return _parted(judged, split)


def _training(
    stage: PrepareStage, *, seed: int, held_out: Sequence[Example], bad: BadRecords
) -> tuple[list[Example], list[Dropped]]:
    """Training examples in the order of their hash; more is loaded for what was dropped or lacks an answer."""
    evaluation = EvaluationSet(held_out)
    wanted = asked = stage.labelled + stage.unlabelled
    for top_up in range(TOP_UPS + 1):
        loaded = list(load_examples(stage.source, split="train", count=asked, seed=seed, bad=bad))
        kept, dropped = _parted(filtered(loaded, evaluation=evaluation), "train")
        answered = sum(example.answer is not None for example in kept)
        missing = max(wanted / max(len(kept), 1), stage.labelled / max(answered, 1))
        if missing <= 1 or len(loaded) < asked or top_up == TOP_UPS:
            break
        asked = ceil(asked * missing * 1.05) + 16
    return sorted(kept, key=lambda example: example.id), dropped


def _parted(judged: Sequence[tuple[Example, Drop | None]], split: str) -> tuple[list[Example], list[Dropped]]:
    kept = [example for example, drop in judged if drop is None]
    dropped = [
        {"id": example.id, "split": split, "reason": drop.reason, "of": drop.of, "prompt": example.prompt[-1][1]}
        for example, drop in judged
        if drop is not None
    ]
    return kept, dropped


def _rejected_by_their_grader(test: Sequence[Example]) -> int:
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


def _nothing_left(split: str, dropped: Sequence[Dropped]) -> str:
    name = "train" if split == "training" else split
    reasons = Counter(row["reason"] for row in dropped if row["split"] == name)
    why = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    found = f"all that the source gave were dropped ({why}). " if why else "the source gave none. "
    if reasons["no_answer_to_grade_by"]:
        return (
            f"no {split} examples: {found}Nothing can be tested on prompts alone. Put problems with answers, none of "
            "which is trained on, into a file of their own and give it as `test_path` (of a hub data set: "
            "`test_split`): 100 measure an accuracy to about ±10 points, 400 to ±5. "
            "docs/synthesize.md has a recipe for prompts alone."
        )
    return (
        f"no {split} examples: {found}A file needs a few dozen different problems with answers, or its own "
        "`test_path`; `labelled` and `unlabelled` must not both be 0."
    )


def _off_task(stage: PrepareStage, *, bad: BadRecords) -> list[Example]:
    if stage.off_task is None:
        return []
    return list(load_examples(stage.off_task, split="test", count=stage.off_task_count, seed=EVALUATION_SEED, bad=bad))


def _without_answer(example: Example) -> Example:
    return replace(example, answer=None, reasoning=None, metadata="")
