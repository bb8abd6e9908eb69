"""Prepare: load, filter and split examples, and take the answers off the unlabelled prompts."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Any

from eyas.errors import DataError
from eyas.filtering import EvaluationSet, filtered
from eyas.recipe import PrepareStage
from eyas.records import Example, Split
from eyas.storage.artifacts import atomic_path
from eyas.storage.context import StageContext
from eyas.storage.shards import write_shard
from eyas.tasks import load_examples

SHARD = 20_000
EVALUATION_SEED = 0
"""Test, validation and off-task problems do not depend on the recipe's seed: runs over seeds share them."""


def run(stage: PrepareStage, context: StageContext) -> dict[str, Any]:
    """Write `examples/SPLIT/`, and `dropped.jsonl` with the reason for each dropped example."""
    wanted = stage.labelled + stage.unlabelled
    context.progress.start(wanted + stage.validation + stage.test, unit="examples")
    test = list(load_examples(stage.source, split="test", count=stage.test, seed=EVALUATION_SEED))
    validation = list(load_examples(stage.source, split="validation", count=stage.validation, seed=EVALUATION_SEED))
    context.progress.advance(len(test) + len(validation))
    kept: list[Example] = []
    dropped: list[dict[str, str]] = []
    loaded = load_examples(stage.source, split="train", count=wanted, seed=context.recipe.seed)
    for example, reason in filtered(loaded, evaluation=EvaluationSet([*test, *validation])):
        context.progress.advance()
        if reason is None:
            kept.append(example)
        else:
            dropped.append({"id": example.id, "reason": reason, "prompt": example.prompt[-1][1]})
    for name, found in {"test": test, "validation": validation, "training": kept}.items():
        if not found:
            raise DataError(
                f"no {name} examples: the source gave none ({len(dropped)} were dropped as duplicates or leaks). "
                "A file needs a few dozen problems, or its own `test_path`."
            )
    kept.sort(key=lambda example: example.id)
    splits: dict[Split, list[Example]] = {
        "labelled": kept[: stage.labelled],
        "unlabelled": [_without_answer(example) for example in kept[stage.labelled :]],
        "validation": validation,
        "test": test,
        "off_task": _off_task(stage),
    }
    for split, examples in splits.items():
        for index, start in enumerate(range(0, len(examples), SHARD)):
            directory = context.directory / "examples" / split
            write_shard(directory, index, examples[start : start + SHARD], kind=Example)
    with atomic_path(context.directory / "dropped.jsonl") as draft:
        draft.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in dropped))
    return {
        "counts": {split: len(examples) for split, examples in splits.items()},
        "asked": {"labelled": stage.labelled, "unlabelled": stage.unlabelled},
        "dropped": dict(Counter(row["reason"] for row in dropped)),
        "answered": sum(example.answer is not None for example in splits["labelled"]),
    }


def _off_task(stage: PrepareStage) -> list[Example]:
    if stage.off_task is None:
        return []
    return list(load_examples(stage.off_task, split="test", count=stage.off_task_count, seed=EVALUATION_SEED))


def _without_answer(example: Example) -> Example:
    return replace(example, answer=None, reasoning=None, metadata="")
