"""A stream of rows to examples: what the recipe's `fields` name, then the schemas of tasks/records.py."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from eyas.errors import DataError
from eyas.recipe import FieldMap, RecordSource
from eyas.recipe.graders import grader_spec
from eyas.records import Example
from eyas.tasks.readers import Row
from eyas.tasks.records import SCHEMA_KEYS, example_of
from eyas.tasks.texts import shown_keys

KEPT_MESSAGES = 1000
"""Malformed records of which it is kept where they stand and what is wrong; the rest is counted only."""


@dataclass
class BadRecords:
    """The malformed records that `max_bad_share` let pass. One collector for several readings counts each once."""

    found: dict[str, str] = field(default_factory=dict)
    """Where it stands -> what is wrong with it, of the first KEPT_MESSAGES."""
    by_name: dict[str, int] = field(default_factory=dict)
    """What was read -> how many it holds; another reading of the same finds the same ones."""

    @property
    def count(self) -> int:
        """All of them."""
        return sum(self.by_name.values())

    def add(self, where: str, problem: str, *, name: str, number: int) -> None:
        """The `number`-th malformed record in this reading of `name`."""
        self.by_name[name] = max(number, self.by_name.get(name, 0))
        if len(self.found) < KEPT_MESSAGES:
            self.found[where] = problem


def examples_of(
    rows: Iterable[Row],
    source: RecordSource,
    *,
    name: str,
    bad: BadRecords | None = None,
    every_field: bool = True,
) -> Iterator[Example]:
    """An example for each row that is not malformed; `name` is what the rows come from.

    Raises: DataError, at the first malformed row if `max_bad_share` is 0, otherwise at the end if there were more; at
    the end too, if no row has one of the `fields` (only the prompt's and the answer's count without `every_field`).
    """
    named = {} if source.fields is None else _named(source.fields, grader=source.grader)
    unseen = {theirs for ours, theirs in named.items() if every_field or ours in ("prompt", "completion")}
    total = malformed = 0
    first = ""
    for where, row in rows:
        total += 1
        if isinstance(row, dict):
            unseen.difference_update(row)
        try:
            example = _example(row, named, grader=source.grader, where=where)
        except DataError as error:
            if not source.max_bad_share:
                raise
            malformed += 1
            first = first or str(error)
            if bad is not None:
                bad.add(where, str(error), name=name, number=malformed)
        else:
            yield example
    if malformed > source.max_bad_share * total:
        raise DataError(
            f"{name}: {malformed} of {total} records are malformed, more than the recipe's `max_bad_share` of "
            f"{source.max_bad_share:g}. The first: {first}"
        )
    if unseen:
        raise DataError(f"{name}: no record has the field {sorted(unseen)[0]!r} that the recipe's `fields` name.")


def _example(row: object, named: dict[str, str], *, grader: str, where: str) -> Example:
    if isinstance(row, DataError):
        raise row
    if named and isinstance(row, dict):
        row, where = _renamed(row, named, grader=grader, where=where), f"{where} (by `fields`)"
    return example_of(row, grader=grader, where=where)


def _named(fields: FieldMap, *, grader: str) -> dict[str, str]:
    """Key of the `prompt`/`completion` schema -> key of the row."""
    wanted = {
        "prompt": fields.prompt,
        "completion": fields.answer,
        "reasoning": fields.reasoning,
        "level": fields.level,
        "system": fields.system,
        "tests" if grader == "code" else "metadata": fields.metadata,
    }
    return {ours: theirs for ours, theirs in wanted.items() if theirs is not None}


def _renamed(row: dict[str, Any], named: dict[str, str], *, grader: str, where: str) -> dict[str, Any]:
    """The row in the `prompt`/`completion` schema; other fields are kept for graders that want more than an answer."""
    if named["prompt"] not in row:
        raise DataError(f"{where}: expected `{named['prompt']}` (`fields.prompt`), found the keys: {shown_keys(row)}.")
    spec = grader_spec(grader)
    more = grader == "choice" or (spec is not None and spec.needs_metadata)
    kept = {key: row[key] for key in row if key not in SCHEMA_KEYS} if more else {}
    return kept | {ours: row.get(theirs) for ours, theirs in named.items()}
