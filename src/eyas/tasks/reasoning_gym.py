"""Tasks of the reasoning-gym package, with their own verifier as grader."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from typing import Any

from eyas.errors import MissingExtra, RecipeError
from eyas.grading import grade
from eyas.recipe import ReasoningGymSource
from eyas.records import Example, seed_for
from eyas.splits import split_of
from eyas.tasks.traces import TRACES

BLOCK = 512
"""Items per data set. reasoning-gym seeds item i with seed + i, so neighbouring seeds share items: every block gets a
seed from a hash, and the split goes by the question's text."""
PATIENCE_BLOCKS = 40
"""Blocks without any new problem of the split after which a task counts as exhausted."""


def package_version() -> str:
    """The installed package's version: another one may draw other problems.

    Raises: MissingExtra, without the package.
    """
    try:
        return f"reasoning-gym {version('reasoning-gym')}"
    except PackageNotFoundError as error:
        raise MissingExtra("reasoning-gym", extra="reasoning-gym", purpose="reasoning-gym tasks") from error


def draw(source: ReasoningGymSource, *, split: str, seed: int) -> Iterator[Example]:
    """Problems of the split, tasks taking turns, no question twice; ends when every task is exhausted.

    Raises: MissingExtra, without the package; RecipeError, for an unknown task or a wrong configuration.
    """
    streams = {task: _task(task, config, split=split, seed=seed) for task, config in source.tasks.items()}
    while streams:
        for task in list(streams):
            example = next(streams[task], None)
            if example is None:
                del streams[task]
            else:
                yield example


def _task(task: str, config: dict[str, Any], *, split: str, seed: int) -> Iterator[Example]:
    seen: set[str] = set()
    barren = 0
    for block in count():
        new = 0
        for entry in _block(task, config, seed=seed_for(seed, task, split, block) % 2**31):
            key = f"{task}:{entry['question']}"
            if key not in seen and split_of(key) == split:
                example = _example(task, entry, key)
                if not seen:
                    _check_verifier(task, entry, example)
                seen.add(key)
                new += 1
                yield example
        barren = 0 if new else barren + 1
        if barren >= PATIENCE_BLOCKS:
            return


def _block(task: str, config: dict[str, Any], *, seed: int) -> Any:
    try:
        import reasoning_gym
    except ImportError as error:
        raise MissingExtra("reasoning-gym", extra="reasoning-gym", purpose="reasoning-gym tasks") from error
    try:
        return reasoning_gym.create_dataset(task, seed=seed, size=BLOCK, **config)
    except (ValueError, TypeError, AssertionError) as error:
        raise RecipeError(f"reasoning-gym task {task!r} with {config}: {error}") from error


def _check_verifier(task: str, entry: dict[str, Any], example: Example) -> None:
    """Refuse tasks without a reference answer, and those whose entries do not survive storage as JSON."""
    if entry["answer"] is None or grade(example.answer or "", example) != 1.0:
        raise RecipeError(
            f"reasoning-gym task {task!r} gives no answer that its own verifier accepts "
            f"(answer: {str(entry['answer'])[:60]!r}), so nothing could be learnt or graded. Choose another task."
        )


def _example(task: str, entry: dict[str, Any], key: str) -> Example:
    trace = TRACES.get(task)
    return Example(
        key=key,
        prompt=(("user", entry["question"]),),
        answer=str(entry["answer"]),
        reasoning=trace(entry) if trace is not None else None,
        grader="reasoning_gym",
        level=_level(entry["metadata"]),
        origin=task,
        metadata=json.dumps(entry, default=str),
    )


def _level(metadata: dict[str, Any]) -> str:
    """The item's own values of what the task calls difficulty: `2 digits, 3 terms`; empty where it states none."""
    difficulty = metadata.get("difficulty")
    if not isinstance(difficulty, dict):
        return ""
    own = {name: metadata.get(name, value) for name, value in sorted(difficulty.items())}
    return ", ".join(
        f"{value} {name.removeprefix('num_')}" if name.startswith("num_") else f"{name} {value}"
        for name, value in own.items()
        if isinstance(value, int | str)
    )
