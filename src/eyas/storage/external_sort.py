"""Examples in the order of a rank, more of them than memory holds: sorted runs on disk, merged as they are read.

A run is a text file, one example a line: 16 hex digits of the rank, then its fields as a JSON array. It is scratch
of one process, never part of an artifact.
"""

from __future__ import annotations

import heapq
import json
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from itertools import islice
from operator import attrgetter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eyas.records import Example
from eyas.storage.artifacts import disk_errors

HELD = 20_000
"""Examples in memory before a run is written."""
HELD_CHARACTERS = 2**25
"""Characters of prompts and answers in memory before a run is written."""
RUNS = 64
"""Runs that are read at once; more are merged into one first, so that no limit of open files is met."""
RANK_DIGITS = 16
_FIELDS = attrgetter(*(item.name for item in fields(Example)))


class SortedExamples(Collection[Example]):
    """Examples by ascending rank, those of one rank as they came; iterated as often as wanted.

    Not a container of everything that was added: with `count` only the first `count` in that order are kept, and
    what cannot be among them any more is not written.
    """

    def __init__(self, *, scratch: Path | None, count: int | None = None, held: int = HELD) -> None:
        """`scratch`: an absent or empty directory for the runs; None keeps all in memory."""
        self._scratch, self._count, self._capacity = scratch, count, held
        self._held: list[tuple[int, Example]] = []
        self._characters, self._most_characters = 0, HELD_CHARACTERS
        self._runs: list[Path] = []
        self._runs_made = 0
        self._ranks: NDArray[np.uint64] = np.empty(0, np.uint64)
        """Of what was written and may still be among the first `count`."""
        self._cutoff = 0 if count == 0 else None
        self._offered = 0

    def add(self, example: Example, *, rank: int) -> None:
        """Take one more; `rank` is within 64 bits, unsigned.

        Raises: StorageError, if the disk is full.
        """
        self._offered += 1
        if self._cutoff is not None and rank >= self._cutoff:
            return
        self._held.append((rank, example))
        self._characters += _size(example)
        if len(self._held) >= self._capacity or self._characters >= self._most_characters:
            self._make_room()

    def __len__(self) -> int:
        return self._offered if self._count is None else min(self._count, self._offered)

    def __contains__(self, item: object) -> bool:
        return any(example == item for example in self)

    def __iter__(self) -> Iterator[Example]:
        self._held.sort(key=_rank)
        if not self._runs:
            return (example for _, example in self._held[: self._count])
        written: Iterator[tuple[int, str | Example]] = ((int(line[:RANK_DIGITS], 16), line) for line in self._lines())
        # Merging is stable: of one rank, what was written comes before what is still held, as it was added.
        merged = heapq.merge(written, self._held, key=_rank)
        found = (_example(item) if isinstance(item, str) else item for _, item in merged)
        return islice(found, self._count)

    def _make_room(self) -> None:
        self._held.sort(key=_rank)
        if self._count is not None:
            self._forget_all_but(self._count)
        self._characters = sum(_size(example) for _, example in self._held)
        few = len(self._held) <= self._capacity // 2 and self._characters <= HELD_CHARACTERS // 2
        if self._scratch is None:
            self._capacity = max(self._capacity, 2 * len(self._held))
            self._most_characters = max(self._most_characters, 2 * self._characters)
        elif self._runs or not few:
            self._write_run(self._scratch, (_line(rank, example) for rank, example in self._held))
            if self._count is not None:
                self._ranks = np.concatenate([self._ranks, _ranks(self._held)])
            self._held, self._characters = [], 0

    def _forget_all_but(self, count: int) -> None:
        ranks = np.concatenate([self._ranks, _ranks(self._held)])
        if len(ranks) >= count:
            self._cutoff = int(np.partition(ranks, count - 1)[count - 1])
            self._ranks = self._ranks[self._ranks <= np.uint64(self._cutoff)]
            self._held = [item for item in self._held if item[0] <= self._cutoff]

    def _write_run(self, scratch: Path, lines: Iterator[str]) -> None:
        with disk_errors(scratch):
            if len(self._runs) >= RUNS:
                merged = [self._run(scratch, self._lines())]
                for run in self._runs:
                    run.unlink()
                self._runs = merged
            self._runs.append(self._run(scratch, lines))

    def _run(self, scratch: Path, lines: Iterator[str]) -> Path:
        scratch.mkdir(parents=True, exist_ok=True)
        self._runs_made += 1
        path = scratch / f"{self._runs_made:05d}.run"
        with path.open("w", encoding="ascii") as file:
            file.writelines(lines)
        return path

    def _lines(self) -> Iterator[str]:
        return heapq.merge(*map(_lines_of, self._runs), key=lambda line: line[:RANK_DIGITS])


@contextmanager
def scratch_directory(inside: Path) -> Iterator[Path]:
    """A directory for what no artifact keeps, empty at first and gone at the end.

    Its name is one that `remove_leftovers` deletes after a crash and `seal` leaves out.
    """
    path = inside / ".scratch.tmp"
    shutil.rmtree(path, ignore_errors=True)
    with disk_errors(path):
        path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _rank(item: tuple[int, object]) -> int:
    return item[0]


def _ranks(held: Sequence[tuple[int, Example]]) -> NDArray[np.uint64]:
    return np.array([rank for rank, _ in held], np.uint64)


def _size(example: Example) -> int:
    return len(example.key) + len(example.answer or "") + len(example.reasoning or "") + len(example.metadata)


def _lines_of(run: Path) -> Iterator[str]:
    with run.open(encoding="ascii") as file:
        yield from file


def _line(rank: int, example: Example) -> str:
    return f"{rank:016x}{json.dumps(_FIELDS(example))}\n"


def _example(line: str) -> Example:
    key, prompt, *rest = json.loads(line[RANK_DIGITS:])
    return Example(key, tuple((role, text) for role, text in prompt), *rest)
