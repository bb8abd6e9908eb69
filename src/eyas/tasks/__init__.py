"""Floor 2: where examples come from. One module per kind of source; `load_examples` picks it.

A source gives examples of any split in an order that may depend on the seed; which split a problem belongs
to depends on the problem alone (eyas.splits), except where the user hands over a test file. Generators never
repeat a problem; files and hub data sets are sampled as they are, so that `prepare` can count their duplicates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Literal

from eyas.errors import DataError
from eyas.recipe import (
    ArithmeticSource,
    DataSource,
    FileSource,
    HubSource,
    MixtureSource,
    ReasoningGymSource,
    RecordSource,
    WordsSource,
)
from eyas.records import Example
from eyas.splits import split_of
from eyas.storage.external_sort import SortedExamples
from eyas.storage.hashing import sha256_of
from eyas.storage.own_grader import file_of
from eyas.tasks import arithmetic, files, hub, reasoning_gym, words
from eyas.tasks.mapping import BadRecords

Split = Literal["train", "validation", "test"]
PATIENCE = 200
"""A generator that gives no new problem of the split in this many times the wanted count (at least) is exhausted."""


def load_examples(
    source: DataSource,
    *,
    split: Split,
    count: int,
    seed: int,
    bad: BadRecords | None = None,
    scratch: Path | None = None,
    step: Callable[[], None] = lambda: None,
) -> Collection[Example]:
    """At most `count` examples of a split, to be iterated as often as wanted; fewer only if the source has no more.

    The malformed records of files and hub data sets that `max_bad_share` lets pass are added to `bad`. What memory
    should not hold lies in `scratch`, an absent or empty directory that must outlive the examples. `step` is called
    for every example that is read, `examples_to_read` times or fewer.

    Raises: DataError, naming file and line of a malformed record; MissingExtra; RecipeError; StorageError.
    """
    if isinstance(source, RecordSource):
        drawn = _of_split(source, split, bad, step)
        return files.sample(drawn, count=count, seed=seed, answered_first=split != "train", scratch=scratch)
    if isinstance(source, MixtureSource):
        found = _mixture(source, split=split, count=count, seed=seed, bad=bad, scratch=scratch, step=step)
    elif isinstance(source, ReasoningGymSource):
        found = islice(reasoning_gym.draw(source, split=split, seed=seed), count)
    else:
        found = _generated(source, split=split, count=count, seed=seed)
    kept = SortedExamples(scratch=scratch)
    for number, example in enumerate(found):
        kept.add(example, rank=number)
        if not isinstance(source, MixtureSource):
            step()
    return kept


def examples_to_read(source: DataSource, *, split: Split, count: int) -> int:
    """How many examples `load_examples` looks at, for its progress; of a hub data set it is not known before.

    Raises: DataError, if a file cannot be read.
    """
    if isinstance(source, MixtureSource):
        return sum(examples_to_read(part.source, split=split, count=count) for part in source.parts)
    return files.rows_to_read(source, split=split) if isinstance(source, FileSource) else count


def first_examples(source: DataSource, *, count: int, seed: int) -> Iterator[Example]:
    """At most `count` training examples, those met first: a look at the data that does not read all of a file.

    Raises: as `load_examples`.
    """
    if isinstance(source, MixtureSource):
        share = -(-count // len(source.parts))
        found = (item for part in source.parts for item in first_examples(part.source, count=share, seed=seed))
        return islice(found, count)
    if isinstance(source, RecordSource):
        return islice(_of_split(source, "train"), count)
    return iter(load_examples(source, split="train", count=count, seed=seed))


def _of_split(
    source: FileSource | HubSource,
    split: Split,
    bad: BadRecords | None = None,
    step: Callable[[], None] = lambda: None,
) -> Iterator[Example]:
    if isinstance(source, FileSource):
        drawn = files.draw(source, split=split, bad=bad)
    else:
        drawn = hub.draw(source, split=split, bad=bad)
    for example, of in drawn:
        step()
        if of == split:
            yield example


def content_identities(source: DataSource) -> list[str]:
    """What a source's examples are made from, in order: SHA-256 of files, also of the user's grader, a hub data
    set's commit, a package's version.

    Raises: DataError, if a file cannot be read; MissingExtra, without the package.
    """
    if isinstance(source, MixtureSource):
        return [found for part in source.parts for found in content_identities(part.source)]
    if isinstance(source, ReasoningGymSource):
        return [reasoning_gym.package_version()]
    if isinstance(source, HubSource):
        return [hub.commit_of(source), *_own_grader(source)]
    return [*files.content_hashes(source), *_own_grader(source)] if isinstance(source, FileSource) else []


def _own_grader(source: RecordSource) -> list[str]:
    path = file_of(source.grader)
    try:
        return [] if path is None else [sha256_of(path)]
    except OSError as error:
        raise DataError(
            f"{path}: the grader's file cannot be read ({error.strerror}). Give path/to/file.py:function."
        ) from error


def _generated(source: ArithmeticSource | WordsSource, *, split: Split, count: int, seed: int) -> Iterator[Example]:
    if isinstance(source, ArithmeticSource):
        drawn = arithmetic.draw(source, split=split, seed=seed)
    else:
        drawn = words.draw(split=split, seed=seed)
    seen: set[str] = set()
    patience = PATIENCE * max(count, 100)
    for tried, example in enumerate(drawn):
        if len(seen) >= count or tried > patience:
            return
        if example.key not in seen and split_of(example.key) == split:
            seen.add(example.key)
            yield example


def _mixture(
    source: MixtureSource,
    *,
    split: Split,
    count: int,
    seed: int,
    bad: BadRecords | None,
    scratch: Path | None,
    step: Callable[[], None],
) -> Iterator[Example]:
    total = sum(part.share for part in source.parts)
    left = count
    names = _part_names(source)
    for number, part in enumerate(source.parts, start=1):
        share = min(left, max(1, round(count * part.share / total)))
        if number == len(source.parts):
            share = left
        own = None if scratch is None else scratch / f"part-{number}"
        examples = load_examples(part.source, split=split, count=share, seed=seed, bad=bad, scratch=own, step=step)
        left -= share
        yield from (item if item.origin else replace(item, origin=names[number - 1]) for item in examples)
        if share and not examples:
            raise DataError(f"the mixture's part {part.source.type} has no examples for the {split} split.")


def _part_names(source: MixtureSource) -> list[str]:
    """What the report calls the parts: a file's name, a data set's id, else the type; numbered where two are alike."""
    names = [
        Path(part.source.path).stem if isinstance(part.source, FileSource)
        else part.source.id if isinstance(part.source, HubSource)
        else part.source.type
        for part in source.parts
    ]  # fmt: skip
    alike = Counter(names)
    return [f"{name} (part {at})" if alike[name] > 1 else name for at, name in enumerate(names, start=1)]
