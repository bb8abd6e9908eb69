"""A process that measures one file: what it is asked, what it answers, and what is said of one that dies."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass

from eyas.errors import BenchError
from eyas.latency import Generation, Round

CHILD = ("-P", "-m", "eyas.runtimes.bench_child")
"""-P: a file of the current directory shadows no module."""
SAID = 400
"""Characters of a failed child's last words that an error repeats."""


@dataclass(frozen=True)
class Request:
    """What `eyas.runtimes.bench_child` is to do."""

    path: str
    soc: str | None
    threads: int
    context_length: int
    prompt_ids: tuple[int, ...]
    completion_tokens: int
    warmup: int
    repeats: int


@dataclass(frozen=True)
class Answer:
    """What it found."""

    runtime: str
    version: str
    context_length: int
    round: Round


def ask(request: Request) -> Answer:
    """Start a process, wait for it.

    Raises: BenchError, if it ends without an answer, with what it said last.
    """
    child = subprocess.run(
        [sys.executable, *CHILD],
        input=json.dumps(asdict(request)), capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    if child.returncode:
        raise BenchError(f"{request.path}: {_last_words(child)}")
    made = json.loads(child.stdout.splitlines()[-1])
    kept = made["round"]
    generations = tuple(Generation(**one | {"decode_s": tuple(one["decode_s"])}) for one in kept["generations"])
    return Answer(**made | {"round": Round(**kept | {"generations": generations})})


def _last_words(child: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in child.stderr.splitlines() if line.strip()]
    said = lines[-1][-SAID:] if lines else "nothing"
    if child.returncode > 0:
        return f"cannot be measured. {said}"
    return (
        f"the process that measured it was ended by signal {-child.returncode}; 9 is mostly the system's, when memory "
        f"runs out, and 6 or 11 the library's, on a damaged file. It said last: {said}"
    )
