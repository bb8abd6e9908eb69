"""Measures exported files beside one another: in turns, each in new processes, each at its best number of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from eyas.errors import DataError, RecipeError
from eyas.latency import per_round, tpot_s
from eyas.runtimes.bandwidth import read_bandwidth
from eyas.runtimes.bench_process import Answer, Request, ask
from eyas.runtimes.facts import FileFacts, file_facts
from eyas.runtimes.measurement import Measurement
from eyas.storage.processor import core_count

SWEEP_PROMPT, SWEEP_COMPLETION, SWEEP_REPEATS = 32, 24, 3
"""Of the sweep: enough to tell the best number of threads, after a prompt that costs little."""

Progress = Callable[[str, int, int], None]
"""What is measured now, processes done, processes in all."""


@dataclass(frozen=True)
class BenchSettings:
    """The same work for all files. Lengths are cut to what the smallest context among them holds."""

    prompt_tokens: int = 512
    """llama-bench's pp512."""
    completion_tokens: int = 128
    """llama-bench's tg128."""
    warmup: int = 1
    """Generations of each process before those that count; llama-bench warms up once."""
    repeats: int = 3
    """Generations that count, of each process."""
    rounds: int = 5
    """Processes of each file; the least and the greatest of five hold the median with 94 %."""
    threads: int | None = None
    """None: each file at the best of one, half of the cores and all."""
    prompt_ids: tuple[int, ...] | None = None
    """The prompt, cut to `prompt_tokens`; None draws ids as llama-bench does, from a fixed seed, of the vocabulary
    that all files share."""
    soc: str | None = None
    """Run the .om files for this Ascend chip (310B1, …) that lie in the directories of graphs. Not run on hardware."""

    def __post_init__(self) -> None:
        """Raises: RecipeError, for a number that leaves nothing to measure."""
        least = {"prompt_tokens": 1, "completion_tokens": 2, "warmup": 0, "repeats": 1, "rounds": 1}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise RecipeError(f"{name} is {getattr(self, name)}, expected at least {smallest}.")
        if self.threads is not None and self.threads < 1:
            raise RecipeError(f"threads is {self.threads}, expected at least 1, or none for the best of some.")


def bench_files(
    files: Sequence[Path], *, settings: BenchSettings | None = None, progress: Progress | None = None
) -> tuple[Measurement, ...]:
    """Measure all files, in their order; one process and one model at a time.

    Raises: RecipeError, for no files; DataError, for a prompt that does not fit; BenchError, if a file cannot be
    measured, with what its process said last; ModelError and CorruptArtifact, for one that is no exported file.
    """
    *_, last = bench_rounds(files, settings=settings, progress=progress)
    return last


def bench_rounds(
    files: Sequence[Path], *, settings: BenchSettings | None = None, progress: Progress | None = None
) -> Iterator[tuple[Measurement, ...]]:
    """As `bench_files`, handing over after every whole round what is measured so far."""
    if not files:
        raise RecipeError("no files to measure. Name one or more exported ones.")
    facts = [file_facts(path) for path in files]
    asked = settings or BenchSettings()
    work = _fitted(asked, facts)
    prompt_ids = prompt_of(work, vocabulary=min(file.vocabulary for file in facts))
    cores = core_count()
    counts = thread_counts(cores) if asked.threads is None and asked.soc is None and cores > 1 else ()
    total = len(files) * (len(counts) + work.rounds)
    done = 0

    def child(file: FileFacts, threads: int, *, short: bool, what: str) -> Answer:
        nonlocal done
        if progress is not None:
            progress(f"{file.name}: {what}", done, total)
        answer = ask(_request(file, work, prompt_ids, threads=threads, short=short))
        done += 1
        return answer

    bandwidth = read_bandwidth()
    sweeps: list[dict[int, float]] = [{} for _ in facts]
    for threads in counts:
        for file, swept in zip(facts, sweeps, strict=True):
            made = child(file, threads, short=True, what=f"trying {threads} threads")
            swept[threads] = per_round((made.round,), tpot_s).value
    best = [min(swept, key=lambda count: swept[count]) if swept else asked.threads or cores for swept in sweeps]
    answers: list[list[Answer]] = [[] for _ in facts]
    order = list(range(len(facts)))
    for number in range(work.rounds):
        for index in order:
            what = f"round {number + 1} of {work.rounds}, {best[index]} threads"
            answers[index].append(child(facts[index], best[index], short=False, what=what))
        order.reverse()
        yield tuple(
            _measurement(file, made, work, threads=threads, sweep=swept, bandwidth=bandwidth)
            for file, made, threads, swept in zip(facts, answers, best, sweeps, strict=True)
        )
    if progress is not None:
        progress("done", total, total)


def thread_counts(cores: int) -> tuple[int, ...]:
    """Numbers of threads that are tried: one, half of the cores, all."""
    return tuple(sorted({1, max(1, cores // 2), cores}))


def prompt_of(settings: BenchSettings, *, vocabulary: int) -> tuple[int, ...]:
    """The ids that every file reads.

    Raises: DataError, for a given prompt with an id outside the vocabulary.
    """
    if settings.prompt_ids is None:
        drawn = np.random.default_rng(0).integers(vocabulary, size=settings.prompt_tokens)
        return tuple(int(index) for index in drawn)
    ids = settings.prompt_ids[: settings.prompt_tokens]
    if min(ids) < 0 or max(ids) >= vocabulary:
        raise DataError(
            f"prompt ids from {min(ids)} to {max(ids)}, the smallest vocabulary of the files has {vocabulary}. "
            "Tokenize the prompt with their own tokenizer, and compare files that share it."
        )
    return ids


def _fitted(settings: BenchSettings, facts: Sequence[FileFacts]) -> BenchSettings:
    """Lengths that fit every file: where one is too small, prompt and completion shrink in proportion.

    Raises: DataError, for an empty prompt, or a context too small to generate two tokens.
    """
    smallest = min(facts, key=lambda file: file.context_length)
    wanted = settings.prompt_tokens
    if settings.prompt_ids is not None:
        wanted = min(wanted, len(settings.prompt_ids))
        if not wanted:
            raise DataError("the prompt has no tokens, expected at least one.")
    room = smallest.context_length
    if room < 3:
        raise DataError(f"{smallest.path}: a context of {room} tokens, expected at least 3. Export a longer one.")
    total = wanted + settings.completion_tokens
    completion = settings.completion_tokens if total <= room else max(2, settings.completion_tokens * room // total)
    return replace(settings, completion_tokens=completion, prompt_tokens=min(wanted, room - completion))


def _request(
    file: FileFacts, work: BenchSettings, prompt_ids: tuple[int, ...], *, threads: int, short: bool
) -> Request:
    return Request(
        path=str(file.path),
        soc=work.soc,
        threads=threads,
        context_length=work.prompt_tokens + work.completion_tokens,
        prompt_ids=prompt_ids[:SWEEP_PROMPT] if short else prompt_ids,
        completion_tokens=min(SWEEP_COMPLETION, work.completion_tokens) if short else work.completion_tokens,
        warmup=1 if short else work.warmup,
        repeats=SWEEP_REPEATS if short else work.repeats,
    )


def _measurement(
    file: FileFacts,
    answers: Sequence[Answer],
    work: BenchSettings,
    *,
    threads: int,
    sweep: dict[int, float],
    bandwidth: float,
) -> Measurement:
    last = answers[-1]
    return Measurement(
        file=file,
        runtime=last.runtime,
        version=last.version,
        threads=threads,
        sweep_tpot_s=sweep,
        prompt_tokens=work.prompt_tokens,
        completion_tokens=work.completion_tokens,
        context_length=last.context_length,
        warmup=work.warmup,
        repeats=work.repeats,
        bandwidth_bytes_per_s=bandwidth,
        rounds=tuple(answer.round for answer in answers),
    )
