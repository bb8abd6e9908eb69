"""A model on a file of examples or on benchmarks, with progress and tables on the terminal: `eyas evaluate MODEL`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console


def measure_on_file(
    target: str,
    data: str,
    grader: str | None,
    sampling: Mapping[str, Any],
    common: Mapping[str, Any],
    batch_size: int,
    *,
    baseline: str | None,
    out: Path,
) -> None:
    """Answer, print the table and, with a baseline, the differences.

    `sampling` and `common` are fields of SamplingSpec and of Measure.

    Raises: RecipeError, for an unknown grader; whatever `eyas.measurement.evaluate_model` raises.
    """
    from functools import partial

    from eyas.console import progress_bars, quieten, shown
    from eyas.errors import RecipeError
    from eyas.measurement import Measure, compare, evaluate_model, require_model
    from eyas.recipe import ExecutionSpec, FileSource, SamplingSpec
    from eyas.recipe.graders import grader_spec, unknown_grader
    from eyas.report.evaluation import difference_lines, evaluation_table

    if grader and grader_spec(grader) is None:
        raise RecipeError(unknown_grader(grader))
    source = {"type": "file", "path": data, "test_path": data} | ({"grader": grader} if grader else {})
    measure = Measure(
        data=FileSource.model_validate(source),
        sampling=SamplingSpec.model_validate(sampling),
        execution=ExecutionSpec(generation_batch_size=batch_size),
        **common,
    )
    quieten()
    console = Console(highlight=False)
    if baseline is not None:
        require_model(baseline)  # before hours of the other model's answers
    with progress_bars(console) as bars:
        display = partial(shown, console=console, bars=bars)
        found = evaluate_model(target, measure, workspace=out, shown=display)
        rival = None if baseline is None else evaluate_model(baseline, measure, workspace=out, shown=display)
    for evaluated in (found,) if rival is None else (found, rival):
        console.print(evaluation_table(evaluated.facts))
    for line in difference_lines({} if rival is None else compare(found, rival), samples=measure.samples):
        console.print(line, soft_wrap=True)
    console.print(f"Predictions and evaluation.json: {found.directory}", soft_wrap=True)


def run_benchmarks(
    target: str,
    common: Mapping[str, Any],
    suite: str | None,
    tasks: str | None,
    *,
    include: Path | None,
    thinking: str | None,
    out: Path,
) -> None:
    """Run a suite, or tasks named with commas between, and print the table; `common` are fields of SuiteOptions.

    Raises: MissingExtra, without the harness; RecipeError, for an unknown task; whatever `open_harness` raises.
    """
    from eyas.harness import SuiteOptions, go_offline_unless_reachable, open_harness, require_harness
    from eyas.suite import SUITES, Benchmark

    harness_version = require_harness()
    console = Console(highlight=False, file=sys.stdout)
    if not go_offline_unless_reachable():
        console.print("The hub is out of reach: only what is on this machine can be measured.")
    from eyas.console import progress_bars, quieten, shown
    from eyas.report.evaluation import suite_notes, suite_table

    quieten()
    options = SuiteOptions(**common)
    names = [name.strip() for name in (tasks or "").split(",") if name.strip()]
    benchmarks = SUITES[suite] if suite else tuple(Benchmark(name, name) for name in names)
    harness = open_harness(
        target, options, include=include, thinking=thinking, workspace=out, harness_version=harness_version
    )
    harness.require_tasks(names)
    outcomes = []
    with progress_bars(console) as bars, shown(target, console=console, bars=bars) as progress:
        progress.start(len(benchmarks), unit="benchmarks")
        for benchmark in benchmarks:
            outcomes += harness.measure(benchmark)
            progress.advance(note=benchmark.name)
    console.print(suite_table(outcomes, title=target, chat=harness.chat, mode=options.mode))
    for line in suite_notes(outcomes):
        console.print(line, soft_wrap=True, markup=False)
    if any(outcome.status == "measured" for outcome in outcomes):
        console.print(f"Results: {harness.directory}", soft_wrap=True)
