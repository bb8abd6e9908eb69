"""Local data files as sources of examples, streamed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from eyas.errors import DataError
from eyas.recipe import FileSource
from eyas.records import Example, seed_for
from eyas.splits import TEST_PERCENT, VALIDATION_PERCENT, split_read
from eyas.storage.external_sort import SortedExamples
from eyas.storage.hashing import sha256_of
from eyas.tasks.mapping import BadRecords, examples_of
from eyas.tasks.readers import count_rows, rows_of
from eyas.tasks.shards import shards_of


def read_file(source: FileSource, *, test: bool = False, bad: BadRecords | None = None) -> Iterator[Example]:
    """Examples of `path`, or of `test_path` where there is one: a file of any kind, or a directory of shards.

    Raises: DataError, with file and line (record or row, where the kind has no lines).
    """
    name = source.test_path if test and source.test_path is not None else source.path
    return examples_of(rows_of(name), source, name=name, bad=bad, every_field=not test)


def content_hashes(source: FileSource) -> list[str]:
    """SHA-256 of `path` and, where there is one, of `test_path`; of each shard, if it is a directory.

    Raises: DataError, if one cannot be read.
    """
    found = []
    for name in (source.path, source.test_path):
        if name is not None:
            try:
                found += [sha256_of(shard) for shard in shards_of(name)]
            except OSError as error:
                raise DataError(f"{name}: cannot be read ({error.strerror}). Give a file or a directory.") from error
    return found


def sample(
    examples: Iterable[Example], *, count: int, seed: int, answered_first: bool, scratch: Path | None = None
) -> SortedExamples:
    """`count` of a stream's examples, drawn by a hash of seed and problem: the stream's order does not matter.

    With `answered_first`, as held-out splits want it, one without an answer is drawn only after all that have one.
    What memory should not hold lies in `scratch`. Repeated problems are drawn together, the first one first.
    """
    drawn = SortedExamples(scratch=scratch, count=count)
    for example in examples:
        later = answered_first and example.answer is None
        drawn.add(example, rank=seed_for(seed, "sample", example.key) | later << 63)
    return drawn


def draw(source: FileSource, *, split: str, bad: BadRecords | None = None) -> Iterator[tuple[Example, str]]:
    """Each example with its split: by hash of the problem, but all of `test_path` is test and `path` then never is."""
    given = source.test_path is not None
    for example in read_file(source, test=given and split == "test", bad=bad):
        yield example, split_read(example.key, read_for=split, own_test_set=given)


def rows_to_read(source: FileSource, *, split: str) -> int:
    """How many rows are read to find a split's, from the number of records alone.

    Raises: DataError, if the file cannot be read.
    """
    name = source.test_path if split == "test" and source.test_path is not None else source.path
    return count_rows(name)


def expected_rows(source: FileSource, *, split: str) -> int:
    """About how many rows a split has, from the number of records alone.

    Raises: DataError, if the file cannot be read.
    """
    rows = rows_to_read(source, split=split)
    if source.test_path is not None and split == "test":
        return rows
    test_percent = TEST_PERCENT if source.test_path is None else 0
    percent = {"test": test_percent, "validation": VALIDATION_PERCENT}
    percent["train"] = 100 - sum(percent.values())
    return round(rows * percent[split] / 100)
