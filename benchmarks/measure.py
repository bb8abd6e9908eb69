"""What every benchmark shares: both sides on the same work in one process, alternating; ratios with their spread.

A row says how many times less the peer's cost is ours: above 1 we win. Its value is the median over rounds, in each of
which both sides did the work once, one after the other; the spread is the least and the greatest of the rounds.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from eyas.recipe import ExecutionSpec
from eyas.storage.hardware import describe_hardware
from eyas.storage.process import prepare_process

RESULTS = Path("bench-results")
M_ARENA_MAX = -8
"""mallopt's name for it in glibc's malloc.h."""


@dataclass(frozen=True)
class Row:
    """One claim. `ours` and `theirs` are printed figures with their unit."""

    what: str
    peer: str
    ours: str
    theirs: str
    ratios: tuple[float, ...]
    """Peer's cost over ours, one per round."""
    target: float | None = None
    """Ratio that must be reached; None where nothing was promised."""
    note: str = ""

    @property
    def ratio(self) -> float:
        """Median over the rounds."""
        return median(self.ratios)

    @property
    def reached(self) -> bool | None:
        """Whether the median is at least the target."""
        return None if self.target is None else self.ratio >= self.target


@dataclass
class Report:
    """The rows of one script; `finish` prints them and writes `bench-results/NAME.json`."""

    name: str
    short: bool
    rows: list[Row] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    """Samples and settings, for the file alone."""
    started: float = field(default_factory=time.monotonic)

    def add(self, row: Row) -> None:
        """Keep a row and say it at once."""
        self.rows.append(row)
        print(line(row), flush=True)

    def note(self, **facts: Any) -> None:
        """Keep facts and say them on stderr."""
        self.facts |= facts
        for name, value in facts.items():
            print(f"  {name}: {value}", file=sys.stderr, flush=True)

    def finish(self) -> None:
        """Print the table with hardware, commit and command, and write the file."""
        made = {
            "name": self.name,
            "short": self.short,
            "command": " ".join(["python", f"benchmarks/{self.name}.py", *sys.argv[1:]]),
            "commit": commit(),
            "hardware": describe_hardware(ExecutionSpec(device="cpu")),
            "seconds": round(time.monotonic() - self.started, 1),
            "rows": [asdict(row) | {"ratio": row.ratio, "reached": row.reached} for row in self.rows],
            "facts": self.facts,
        }
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{self.name}.json").write_text(json.dumps(made, indent=1) + "\n")
        print("\n".join(["", *table(self.rows), "", footer(made)]), flush=True)


HEADER = ("| what | peer | ours | peer's | ratio [spread] | target | reached |", "|---|---|---|---|---|---|---|")


def line(row: Row) -> str:
    """One line of the table."""
    spread = f"{row.ratio:.2f} [{min(row.ratios):.2f}, {max(row.ratios):.2f}]"
    target = "" if row.target is None else f"≥ {row.target:g}"
    reached = {None: "", True: "yes", False: "**no**"}[row.reached]
    what = row.what + (f" ({row.note})" if row.note else "")
    return f"| {what} | {row.peer} | {row.ours} | {row.theirs} | {spread} | {target} | {reached} |"


def table(rows: Sequence[Row]) -> list[str]:
    """Markdown."""
    return [*HEADER, *map(line, rows)]


def footer(made: dict[str, Any]) -> str:
    """Command, commit and hardware of a results file."""
    machine = made["hardware"]
    return (
        f"`{made['command']}`, {made['seconds']:.0f} s, commit {made['commit']}; {machine['threads']} threads of "
        f"{machine['cores']} × {machine['cpu']}, torch {machine['torch']}, transformers {machine['transformers']}"
    )


def commit() -> str:
    """The checkout's commit; with a star where files differ from it."""

    def git(*words: str) -> str:
        made = subprocess.run(["git", *words], capture_output=True, text=True, cwd=Path(__file__).parent)
        return made.stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("*" if git("status", "--porcelain", "--untracked-files=no") else "")


def options(doc: str | None) -> argparse.ArgumentParser:
    """A parser with `--short`; the caller adds its own."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="the small form that `make bench` runs")
    return parser


def prepare() -> None:
    """All cores, no bars; one malloc arena, so that the threads of `Turns` allocate as the main thread does."""
    from transformers.utils import logging

    prepare_process(ExecutionSpec())
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def seconds(work: Callable[[], object]) -> float:
    """Wall clock of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def alternate(*works: Callable[[], object], rounds: int, warmup: bool = True) -> list[list[float]]:
    """Seconds of each call, per round, in turn; the order is reversed every second round."""
    if warmup:
        for work in works:
            work()
    found: list[list[float]] = [[] for _ in works]
    order = list(range(len(works)))
    for _ in range(rounds):
        for index in order:
            found[index].append(seconds(works[index]))
        order.reverse()
    return found


def ratios(ours: Sequence[float], peer: Sequence[float]) -> tuple[float, ...]:
    """Peer's seconds over ours, round by round."""
    return tuple(theirs / own for own, theirs in zip(ours, peer, strict=True))


class Enough(Exception):
    """Ends a loop that has done its rounds."""


class Turns:
    """Training loops that take turns, step by step: each runs in its own thread, and only one at a time.

    A loop is called with `turn`, which it calls at the end of every step. Its first step, with all that comes before
    it, is warm-up.
    """

    def __init__(self, *loops: Callable[[Callable[[], None]], object]) -> None:
        self._main = threading.Semaphore(0)
        self._own = [threading.Semaphore(0) for _ in loops]
        self._over = False
        self._error: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._run, args=(loop, own), daemon=True)
            for loop, own in zip(loops, self._own, strict=True)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, loop: Callable[[Callable[[], None]], object], own: threading.Semaphore) -> None:
        def turn() -> None:
            self._main.release()
            own.acquire()
            if self._over:
                raise Enough

        own.acquire()
        try:
            if not self._over:
                loop(turn)
        except Enough:
            pass
        except BaseException as error:  # noqa: BLE001 (handed to the main thread)
            self._error = error
        finally:
            self._main.release()

    def _step(self, index: int) -> float:
        start = time.perf_counter()
        self._own[index].release()
        self._main.acquire()
        if self._error is not None:
            raise self._error
        return time.perf_counter() - start

    def run(self, rounds: int) -> list[list[float]]:
        """Seconds of each loop's steps, per round; ends all loops."""
        found: list[list[float]] = [[] for _ in self._own]
        order = list(range(len(self._own)))
        try:
            for index in order:
                self._step(index)
            for _ in range(rounds):
                for index in order:
                    found[index].append(self._step(index))
                order.reverse()
        finally:
            self._over = True
            for own, thread in zip(self._own, self._threads, strict=True):
                own.release()
                thread.join()
        return found
