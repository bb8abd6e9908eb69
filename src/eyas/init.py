"""`eyas init`: a commented recipe with defaults that fit the sizes of the two models and of the data."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.console import Console

from eyas.errors import DataError, RecipeError, StorageError
from eyas.estimates import ModelSize
from eyas.planning import size_of
from eyas.preflight import check_recipe_pair
from eyas.recipe import FileSource, ModelSpec, parse_recipe
from eyas.splits import TEST_PERCENT, VALIDATION_PERCENT, split_of
from eyas.storage.artifacts import atomic_path
from eyas.storage.models import describe
from eyas.storage.tokenization import load_tokenizer
from eyas.tasks.files import read_file
from eyas.thinking import format_of_template

LEARNING_RATES = ((5e6, 4e-3), (50e6, 5e-4), (300e6, 1e-4), (700e6, 3e-5), (float("inf"), 1e-5))
"""(largest student, learning rate): 1e-5 at 1 B is that of arXiv 2605.05940, 4e-3 the quickstart's; by size between."""
TINY = 5e6
"""Parameters up to which a student is trained as the embedded one is: short completions, large batches."""
LABEL_SHARE = 0.3
"""Share of the training examples whose answers are used, if as many have one; distillation needs prompts only."""
COUNT_ROWS = 200_000
"""Rows of a data file that are read to count it."""
ARITHMETIC = "builtin:arithmetic"
GENERATED = 10_000
"""Examples that a recipe for a generated task takes, as a file of as many lines would give."""
MOST_VALIDATION, MOST_TEST = 300, 2000
"""Enough to choose a checkpoint by, and for an interval of about two points."""


@dataclass
class Rows:
    """What a data source holds, by the split that each problem's hash decides."""

    answered: Counter[str] = field(default_factory=Counter)
    unanswered: Counter[str] = field(default_factory=Counter)
    reasoned: bool = False
    """Whether any row has reasoning."""


def write_recipe(path: Path, *, student: str, teacher: str, data: str, thinking: str | None) -> None:
    """Look at both models and the data, write a recipe to `path`, and check that it is valid.

    Raises: RecipeError, if `path` exists; StorageError, if it cannot; ModelError, PairMismatch or DataError, as a
    run would.
    """
    _check_free(path)
    rows = _count_rows(data)
    with TemporaryDirectory() as scratch:
        paths = {}
        for role, origin in {"student": student, "teacher": teacher}.items():
            describe(ModelSpec.model_validate({"from": origin}), Path(scratch) / role)
            paths[role] = Path(scratch) / role / "model"
        sizes = {role: size_of(found) for role, found in paths.items()}
        template = str(load_tokenizer(paths["student"]).chat_template or "")
        values = {
            "name": json.dumps(path.stem),
            "student": json.dumps(student),
            "teacher": json.dumps(teacher),
            "millions": {role: f"{size.parameters / 1e6:,.1f}" for role, size in sizes.items()},
            "data": None if data == ARITHMETIC else json.dumps(data),
            "thinking": thinking or format_of_template(template),
            "reasoned": rows.reasoned,
        }
        text = _render(values | _counts(rows) | _training(sizes["student"]))
        report = check_recipe_pair(parse_recipe(yaml.safe_load(text), where=str(path)), paths)
    with atomic_path(path) as draft:
        draft.write_text(text, encoding="utf-8")
    console = Console(highlight=False, soft_wrap=True)
    for line in report.lines():
        console.print(line)
    console.print(f"Wrote {path}. Next: eyas plan {path}, eyas run {path} --limit 8, eyas run {path}")


def _check_free(path: Path) -> None:
    if path.exists():
        raise RecipeError(f"{path}: exists already. Choose another name with --to, or delete it.")
    blocking = [parent for parent in path.parents if parent.exists() and not parent.is_dir()]
    if blocking:
        raise StorageError(f"{path}: {blocking[0]} is a file, not a directory. Choose another name with --to.")


def _count_rows(data: str) -> Rows:
    """The rows of a data file or a directory of shards, or of `builtin:arithmetic`.

    Raises: DataError, if a record is malformed or a split has no answer.
    """
    rows = Rows()
    if data == ARITHMETIC:
        test, validation = GENERATED * TEST_PERCENT // 100, GENERATED * VALIDATION_PERCENT // 100
        rows.answered.update(test=test, validation=validation, train=GENERATED - test - validation)
        rows.reasoned = True
        return rows
    for number, example in enumerate(read_file(FileSource(type="file", path=data)), start=1):
        counted = rows.unanswered if example.answer is None else rows.answered
        counted[split_of(example.key)] += 1
        rows.reasoned = rows.reasoned or example.reasoning is not None
        if number >= COUNT_ROWS:
            break
    for split in ("train", "validation", "test"):
        if not rows.answered[split]:
            total = rows.answered.total() + rows.unanswered.total()
            raise DataError(
                f"{data}: {rows.answered.total()} of {total} rows have an answer, none of them in the {split} split "
                "(a hash of the problem decides). Give a few dozen rows an `answer`, `completion` or assistant "
                "message: some to learn from, some to test on; the others may stay prompts."
            )
    return rows


def _counts(rows: Rows) -> dict[str, int]:
    train = rows.answered["train"] + rows.unanswered["train"]
    labelled = min(rows.answered["train"], max(1, round(train * LABEL_SHARE)))
    return {
        "labelled": labelled,
        "unlabelled": max(1, train - labelled),
        "validation": min(MOST_VALIDATION, rows.answered["validation"]),
        "test": min(MOST_TEST, rows.answered["test"]),
    }


def _training(student: ModelSize) -> dict[str, Any]:
    """Learning rate, batch sizes and completion length for a student of this size."""
    tiny = student.parameters < TINY
    rate = next(rate for largest, rate in LEARNING_RATES if student.parameters <= largest)
    return {
        "rate": f"{rate:.1e}",
        "batch": 128 if tiny else 32,
        "tokens": 48 if tiny else 512,
        "micro": 64 if tiny else 4,
        "generation": 512 if tiny else 64,
    }


def _render(values: Mapping[str, Any]) -> str:
    environment = Environment(
        loader=PackageLoader("eyas", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # YAML, not HTML
    )
    return environment.get_template("recipe.yaml.jinja").render(values)
