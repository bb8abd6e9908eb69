"""JSON Lines files, streamed."""

from __future__ import annotations

import codecs
import heapq
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from eyas.errors import DataError
from eyas.recipe import FileSource
from eyas.records import Example, seed_for
from eyas.splits import TEST_PERCENT, VALIDATION_PERCENT, split_of
from eyas.storage.artifacts import sha256_of
from eyas.tasks.records import example_of


def read_jsonl(path: Path, *, grader: str) -> Iterator[Example]:
    """Examples of a file, one object a line; blank lines are skipped.

    Raises: DataError, with file and line.
    """
    found = False
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                if line.strip():
                    found = True
                    where = f"{path}, line {number}"
                    yield example_of(_parse(line, where=where), grader=grader, where=where)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    if not found:
        raise DataError(f"{path}: holds no records. Expected one JSON object a line.")


def _parse(line: bytes, *, where: str) -> object:
    try:
        parsed: object = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 ({error.reason} at byte {error.start}).") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error}). Each line must be one whole JSON object.") from error
    return parsed


def content_hashes(source: FileSource) -> list[str]:
    """SHA-256 of `path` and, where there is one, of `test_path`.

    Raises: DataError, if one cannot be read.
    """
    found = []
    for name in (source.path, source.test_path):
        if name is not None:
            try:
                found.append(sha256_of(Path(name).expanduser()))
            except OSError as error:
                raise DataError(f"{name}: cannot be read ({error.strerror}).") from error
    return found


def sample(examples: Iterable[Example], *, count: int, seed: int, answered_first: bool) -> list[Example]:
    """`count` of a stream's examples, drawn by a hash of seed and problem: the stream's order does not matter.

    With `answered_first`, as held-out splits want it, one without an answer is drawn only after all that have one.
    Memory holds `count` examples, not the stream. Repeated problems are drawn together, the first one first.
    """
    chosen: list[tuple[bool, int, int, Example]] = []
    for number, example in enumerate(examples):
        preferred = answered_first and example.answer is not None
        item = (preferred, -seed_for(seed, "sample", example.key), -number, example)
        if len(chosen) < count:
            heapq.heappush(chosen, item)
        elif count and item > chosen[0]:
            heapq.heapreplace(chosen, item)
    return [item[-1] for item in sorted(chosen, reverse=True)]


def draw(source: FileSource, *, split: str) -> Iterator[tuple[Example, str]]:
    """Each example with its split: by hash of the problem, but all of `test_path` is test and `path` then never is."""
    if source.test_path is None:
        for example in read_jsonl(Path(source.path).expanduser(), grader=source.grader):
            yield example, split_of(example.key)
    elif split == "test":
        for example in read_jsonl(Path(source.test_path).expanduser(), grader=source.grader):
            yield example, "test"
    else:
        for example in read_jsonl(Path(source.path).expanduser(), grader=source.grader):
            of = split_of(example.key)
            yield example, "train" if of == "test" else of


def expected_rows(source: FileSource, *, split: str) -> int:
    """About how many rows a split has, from the number of lines alone.

    Raises: DataError, if the file cannot be read.
    """
    if source.test_path is not None and split == "test":
        return _count_lines(Path(source.test_path).expanduser())
    test_percent = TEST_PERCENT if source.test_path is None else 0
    percent = {"test": test_percent, "validation": VALIDATION_PERCENT}
    percent["train"] = 100 - sum(percent.values())
    return round(_count_lines(Path(source.path).expanduser()) * percent[split] / 100)


def _count_lines(path: Path) -> int:
    try:
        with path.open("rb") as lines:
            return sum(1 for line in lines if line.strip())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
