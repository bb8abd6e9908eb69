"""Floor 2: where examples come from. One module per kind of source; `load_examples` picks it.

A source gives examples of any split in an order that may depend on the seed; which split a problem belongs
to depends on the problem alone (eyas.splits), except where the user hands over a test file.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Literal

from eyas.errors import DataError
from eyas.recipe import (
    ArithmeticSource,
    DataSource,
    FileSource,
    HubSource,
    MixtureSource,
    ReasoningGymSource,
    WordsSource,
)
from eyas.records import Example
from eyas.splits import split_of
from eyas.tasks import arithmetic, files, hub, reasoning_gym, words

Split = Literal["train", "validation", "test"]
PATIENCE = 200
"""A generator that gives no new problem of the split in this many times the wanted count (at least) is exhausted."""


def load_examples(source: DataSource, *, split: Split, count: int, seed: int) -> Iterator[Example]:
    """At most `count` examples of a split, no key twice.

    Raises: DataError, naming file and line of a malformed record; MissingExtra.
    """
    if isinstance(source, MixtureSource):
        yield from _mixture(source, split=split, count=count, seed=seed)
        return
    if isinstance(source, ReasoningGymSource):
        yield from islice(reasoning_gym.draw(source, split=split, seed=seed), count)
        return
    seen: set[str] = set()
    patience = PATIENCE * max(count, 100)
    for tried, (example, of) in enumerate(_drawn(source, split=split, seed=seed)):
        if len(seen) >= count or tried > patience:
            return
        if of == split and example.key not in seen:
            seen.add(example.key)
            yield example


def _drawn(
    source: ArithmeticSource | WordsSource | FileSource | HubSource, *, split: Split, seed: int
) -> Iterator[tuple[Example, str]]:
    if isinstance(source, ArithmeticSource):
        return ((example, split_of(example.key)) for example in arithmetic.draw(source, split=split, seed=seed))
    if isinstance(source, WordsSource):
        return ((example, split_of(example.key)) for example in words.draw(split=split, seed=seed))
    if isinstance(source, FileSource):
        return files.draw(source, split=split)
    return hub.draw(source, split=split)


def _mixture(source: MixtureSource, *, split: Split, count: int, seed: int) -> Iterator[Example]:
    total = sum(part.share for part in source.parts)
    for part in source.parts:
        share = max(1, round(count * part.share / total))
        examples = list(load_examples(part.source, split=split, count=share, seed=seed))
        yield from examples
        if not examples:
            raise DataError(f"the mixture's part {part.source.type} has no examples for the {split} split.")
