"""An exported file as what answers examples: one prompt after the other, as on the device."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from eyas.engines.base import Request, Sampled
from eyas.errors import RecipeError
from eyas.recipe import SamplingSpec
from eyas.runtimes.opening import open_runtime
from eyas.runtimes.runtime import Runtime
from eyas.storage.processor import core_count

TRIAL_TOKENS = 32


class ExportedEngine:
    """Generates greedily with a runtime; see `Engine.generate`. It cannot score."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.context = runtime.context_length

    def generate(self, requests: Sequence[Request], *, sampling: SamplingSpec, stop: tuple[int, ...]) -> list[Sampled]:
        """As `Engine.generate`.

        Raises: RecipeError, for a temperature above 0: the runtime does not tell the log-probs of what it draws.
        """
        if sampling.temperature > 0:
            raise RecipeError("exported files answer greedily: give `sampling.temperature: 0`.")
        return [
            self._completed(request.prompt_ids, most=sampling.max_completion_tokens, stop=stop) for request in requests
        ]

    def _completed(self, prompt_ids: list[int], *, most: int, stop: tuple[int, ...]) -> Sampled:
        most = min(most, self.context - len(prompt_ids))
        ids = list(self._runtime.generate(prompt_ids, max_tokens=most, stop_ids=stop))
        return Sampled(
            completion_ids=ids, logprobs=[0.0] * len(ids), finish_reason="stop" if ids[-1] in stop else "length"
        )


def open_fastest(path: Path, prompt_ids: Sequence[int], *, context_length: int | None) -> Runtime:
    """The file opened with one thread or with all cores, whichever continues this prompt faster.

    A tiny model can be several times faster with one. Raises: as `open_runtime`.
    """
    seconds: dict[int, float] = {}
    for threads in {1, core_count()}:
        with open_runtime(path, threads=threads, context_length=context_length) as runtime:
            for _ in range(2):  # the first pays for what is set up once
                started = time.perf_counter()
                list(runtime.generate(prompt_ids, max_tokens=TRIAL_TOKENS, stop_ids=()))
                seconds[threads] = time.perf_counter() - started
    return open_runtime(path, threads=min(seconds, key=lambda count: seconds[count]), context_length=context_length)
