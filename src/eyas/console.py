"""A run on the terminal: progress bars with ETA, or plain lines where there is no terminal, then the table."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from eyas.graph import Node
from eyas.pipeline import read_summary, run_recipe
from eyas.recipe import BenchStage, Recipe, ReportStage
from eyas.report.console import result_table
from eyas.storage.artifacts import Artifact
from eyas.storage.context import Progress


class _Bar:
    """One stage's bar."""

    def __init__(self, bars: RichProgress, task: TaskID) -> None:
        self._bars, self._task = bars, task

    def start(self, total: int, *, unit: str, done: int = 0) -> None:
        self._bars.reset(self._task, total=total, completed=done, unit=unit, note="")

    def advance(self, amount: int = 1, *, note: str = "") -> None:
        self._bars.update(self._task, advance=amount, note=note)


class _Lines:
    """A line every 30 seconds, for logs."""

    EVERY_S = 30.0

    def __init__(self, console: Console, label: str) -> None:
        self._console, self._label = console, label
        self._total, self._done, self._unit, self._last = 0, 0, "", time.monotonic()

    def start(self, total: int, *, unit: str, done: int = 0) -> None:
        self._total, self._unit, self._done = total, unit, done

    def advance(self, amount: int = 1, *, note: str = "") -> None:
        self._done += amount
        if time.monotonic() - self._last >= self.EVERY_S:
            self._last = time.monotonic()
            self._console.print(f"{self._label}: {self._done} of {self._total} {self._unit} {note}", highlight=False)


def progress_bars(console: Console) -> RichProgress:
    """Bars with count, elapsed time and ETA; none where there is no terminal."""
    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[note]}"),
        console=console,
        disable=not console.is_terminal,
    )


@contextmanager
def shown(label: str, *, console: Console, bars: RichProgress) -> Iterator[Progress]:
    """One piece of work: a bar on a terminal, otherwise a line now and then and one at its end."""
    begun = time.monotonic()
    if console.is_terminal:
        task = bars.add_task(label, total=None, unit="", note="")
        yield _Bar(bars, task)
        bars.update(task, note="")
    else:
        yield _Lines(console, label)
        console.print(f"{label}: done in {time.monotonic() - begun:.1f} s", highlight=False)


def run_and_show(
    recipe: Recipe, *, recipe_text: str, workspace: Path, stage: str | None = None, name: str | None = None
) -> None:
    """Run with progress on the terminal and end with the result table and the report's path.

    With `stage` only the stages of this type run (with `name`, the one of this name), and what they read.
    """
    console = Console()
    started = time.monotonic()

    def wanted(node: Node) -> bool:
        if name is not None:
            return node.name == name or node.name.startswith(f"{name}.")
        return node.type == stage

    done = run_with_progress(
        recipe,
        recipe_text=recipe_text,
        workspace=workspace,
        console=console,
        wanted=None if stage is None else wanted,
    )
    run = workspace / recipe.name
    if stage is None and any(isinstance(stage, ReportStage) for stage in recipe.stages):
        console.print(result_table(read_summary(run)))
        console.print(f"Report: {run / 'report.html'}", highlight=False, soft_wrap=True)
        if not any(isinstance(stage, BenchStage) for stage in recipe.stages):
            console.print(f"For a device: eyas deploy {run}", highlight=False, soft_wrap=True)
    else:
        for made, artifact in done.items():
            if stage in (None, artifact.stage):
                console.print(f"{made}: {artifact.path}", highlight=False, soft_wrap=True)
    console.print(f"{time.monotonic() - started:.0f} s in all.", highlight=False)


def run_with_progress(
    recipe: Recipe,
    *,
    recipe_text: str,
    workspace: Path,
    console: Console,
    wanted: Callable[[Node], bool] | None = None,
) -> dict[str, Artifact]:
    """`run_recipe` with its progress on `console`."""
    quieten()
    bars = progress_bars(console)

    def progress(node: Node, number: int, total: int) -> AbstractContextManager[Progress]:
        return shown(f"{number:>2}/{total} {node.name}", console=console, bars=bars)

    with bars:
        return run_recipe(recipe, recipe_text=recipe_text, workspace=workspace, progress=progress, wanted=wanted)


def quieten() -> None:
    """Libraries' advisories would tear our progress bars; errors still come as exceptions."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=UserWarning, module="torch")
