"""What a stage is given: its inputs, its directory, the recipe's facts, a clock and a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from eyas.recipe import ExecutionSpec, Recipe
from eyas.storage.artifacts import Artifact, StageClock


class Progress(Protocol):
    """A stage's progress bar; the pipeline owns it and adds the ETA."""

    def start(self, total: int, *, unit: str, done: int = 0) -> None:
        """Set the amount of work; called again when a stage has several parts."""

    def advance(self, amount: int = 1, *, note: str = "") -> None:
        """Move on, with a short note such as the current loss."""


class SilentProgress:
    """Progress for tests and scripts."""

    def start(self, total: int, *, unit: str, done: int = 0) -> None:
        """Do nothing."""

    def advance(self, amount: int = 1, *, note: str = "") -> None:
        """Do nothing."""


@contextmanager
def steps(progress: Progress, total: int, *, unit: str, every: int = 500) -> Iterator[Callable[[], None]]:
    """What to call for each of `total` small pieces of work; the bar moves `every` so many."""
    progress.start(total, unit=unit)
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if done % every == 0:
            progress.advance(every)

    yield step
    progress.advance(done % every)


@dataclass(frozen=True)
class StageContext:
    """Everything a stage may look at. `inputs` has the keys of the stage's `references()`."""

    recipe: Recipe
    directory: Path
    """Where the stage writes; may hold whole shards and checkpoints of an interrupted attempt."""
    inputs: Mapping[str, Artifact]
    clock: StageClock
    progress: Progress
    rounds: tuple[Artifact, ...] = ()
    """For `match_tokens` and `match_seconds`: the rollouts, scores and trainings to match, from `training_rounds`."""

    @property
    def execution(self) -> ExecutionSpec:
        """How the work is cut for this machine."""
        return self.recipe.execution

    def model_path(self, field: str = "model") -> Path:
        """Hugging Face directory of a model input: the artifact's `model/`."""
        return self.inputs[field].path / "model"

    def model_dtype(self, field: str = "model") -> str:
        """Numeric type that a model input is to be held in."""
        return str(self.inputs[field].facts["dtype"])
