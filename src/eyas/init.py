"""`eyas init`: a commented recipe with defaults that fit the sizes of the two models and of the data."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import ValidationError
from rich.console import Console

from eyas.errors import DataError, RecipeError, StorageError
from eyas.estimates import ModelSize
from eyas.grading.structured import extract_json
from eyas.grading.text import extract_numeric
from eyas.planning import size_of
from eyas.preflight import check_recipe_pair
from eyas.recipe import FieldMap, FileSource, ModelSpec, parse_recipe
from eyas.splits import TEST_PERCENT, VALIDATION_PERCENT
from eyas.storage.artifacts import atomic_path
from eyas.storage.models import describe
from eyas.storage.tokenization import load_tokenizer
from eyas.tasks.files import draw
from eyas.tasks.readers import rows_of
from eyas.tasks.texts import shown_keys
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
ANSWERS_SEEN = 1000
"""Answers by which the grader is chosen."""
MOST = 0.9
"""Share of the answers that must look made for a grader."""
LONGEST_NUMBER = 30
"""Characters up to which an answer with a number is that number with a unit, and no sentence."""
MOST_VALIDATION, MOST_TEST = 300, 2000
"""Enough to choose a checkpoint by, and for an interval of about two points."""


@dataclass
class Rows:
    """What a data source holds, by the split that each problem's hash decides."""

    answered: Counter[str] = field(default_factory=Counter)
    unanswered: Counter[str] = field(default_factory=Counter)
    reasoned: bool = False
    """Whether any row has reasoning."""
    answers: list[str] = field(default_factory=list)
    """The first of them, to tell a grader by."""


@dataclass(frozen=True)
class Data:
    """What `eyas init` is told about the data."""

    path: str
    """A file, a directory of shards, a pattern, or `builtin:arithmetic`."""
    test_path: str | None = None
    fields: str | None = None
    """`prompt=question,answer=solution`: what the recipe's `fields` shall say."""
    grader: str | None = None
    """None: the one that the answers look like."""

    def source(self) -> FileSource:
        """The recipe's source.

        Raises: RecipeError, if a field or the grader does not exist.
        """
        told: dict[str, Any] = {"type": "file", "path": self.path, "test_path": self.test_path}
        if self.fields is not None:
            pairs = [pair.partition("=") for pair in self.fields.split(",")]
            told["fields"] = {ours.strip(): theirs.strip() for ours, _, theirs in pairs}
        if self.grader is not None:
            told["grader"] = self.grader
        try:
            return FileSource.model_validate(told)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise RecipeError(
                f"--{where}: {first['msg']}. Expected for instance --fields prompt=problem,answer=solution "
                f"(of {', '.join(FieldMap.model_fields)}) and a --grader of docs/graders.md."
            ) from None


def write_recipe(path: Path, *, student: str, teacher: str, data: Data, thinking: str | None) -> None:
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
            "source": None if data.path == ARITHMETIC else _source(data, rows),
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


def _count_rows(data: Data) -> Rows:
    """The rows of a data file or a directory of shards, or of `builtin:arithmetic`.

    Raises: DataError, if a record is malformed or a split has no answer; RecipeError, as `Data.source`, and if the
    generated task is told what only a file can be.
    """
    rows = Rows()
    if data.path == ARITHMETIC:
        _check_nothing_told(data)
        test, validation = GENERATED * TEST_PERCENT // 100, GENERATED * VALIDATION_PERCENT // 100
        rows.answered.update(test=test, validation=validation, train=GENERATED - test - validation)
        rows.reasoned = True
        return rows
    source = data.source()
    for split in ("train",) if source.test_path is None else ("train", "test"):
        for example, of in islice(draw(source, split=split), COUNT_ROWS):
            if example.answer is None:
                rows.unanswered[of] += 1
                continue
            rows.answered[of] += 1
            rows.reasoned = rows.reasoned or example.reasoning is not None
            if len(rows.answers) < ANSWERS_SEEN:
                rows.answers.append(example.answer)
    for split in ("train", "validation", "test"):
        if not rows.answered[split]:
            total = rows.answered.total() + rows.unanswered.total()
            raise DataError(
                f"{data.path}: {rows.answered.total()} of {total} rows have an answer, none of them in the {split} "
                "split (a hash of the problem decides). Give a few dozen rows an `answer`, `completion` or assistant "
                "message: some to learn from, some to test on; the others may stay prompts. The first row's keys: "
                f"{_first_keys(source)}; if one of them holds the answer, say so: --fields prompt=…,answer=…"
            )
    return rows


def _check_nothing_told(data: Data) -> None:
    """Raises: RecipeError, if a generated task is told what only a file can be."""
    options = {"--test-data": data.test_path, "--fields": data.fields, "--grader": data.grader}
    if told := " and ".join(option for option, value in options.items() if value is not None):
        raise RecipeError(
            f"{ARITHMETIC} has its own test problems, fields and grader, found {told}. Drop {told}, or give --data a "
            "file."
        )


def _first_keys(source: FileSource) -> str:
    row = next((row for _, row in rows_of(source.path)), None)
    return shown_keys(row) if isinstance(row, dict) else "none"


def _source(data: Data, rows: Rows) -> dict[str, str]:
    """The lines of the recipe's source."""
    source = data.source()
    lines = {"path": json.dumps(data.path, ensure_ascii=False)}
    if source.test_path is not None:
        lines["test_path"] = json.dumps(source.test_path, ensure_ascii=False)
    if source.fields is not None:
        told = source.fields.model_dump(exclude_none=True).items()
        lines["fields"] = (
            "{" + ", ".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in told) + "}"
        )
    lines["grader"] = json.dumps(source.grader) if data.grader is not None else likely_grader(rows.answers)
    return lines


def likely_grader(answers: Sequence[str]) -> str:
    """The grader that most answers look made for: `maths` if a tenth is LaTeX, `normalised` if all else fails."""

    def share(fits: Callable[[str], bool]) -> float:
        return sum(map(fits, answers)) / len(answers)

    if share(lambda answer: re.fullmatch(r"\(?[A-J]\)?\.?", answer) is not None) >= MOST:
        return "choice"
    if share(lambda answer: answer[0] in "{[" and extract_json(answer) is not None) >= MOST:
        return "json"
    if share(lambda answer: "\\" in answer or answer.count("$") > 1) >= 1 - MOST:
        return "maths"
    numbers = share(lambda answer: len(answer) <= LONGEST_NUMBER and extract_numeric(answer) is not None)
    return "numeric" if numbers >= MOST else "normalised"


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
