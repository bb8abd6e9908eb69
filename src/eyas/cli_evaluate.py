"""`eyas evaluate`: a recipe's evaluation stages, or any model on a file of examples or on benchmarks."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import typer
from rich.console import Console

if TYPE_CHECKING:
    from eyas.records import Mode

EXAMPLES = (
    "Examples:",
    "eyas evaluate HuggingFaceTB/SmolLM2-135M-Instruct --data test.jsonl --limit 200",
    "eyas evaluate runs/NAME/models/distilled --baseline runs/NAME/models/sft --data test.jsonl",
    "eyas evaluate MODEL --data test.jsonl --samples 8 --temperature 0.7",
    "eyas evaluate MODEL --suite paper --limit 100",
)
OF_FILE, OF_BENCHMARKS, OF_RECIPE = "On a file of examples", "On benchmarks", "Of a recipe"
RECIPES = (".yaml", ".yml")


class RunStage(Protocol):
    """Runs one type of stage of a recipe, and what it needs."""

    def __call__(
        self, path: Path, out: Path, overrides: list[str] | None, limit: int | None, *, stage: str, name: str | None
    ) -> None:
        """Run to the end or continue."""


Target = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE|MODEL",
        help="Recipe (*.yaml), or a model: hub id, directory, builtin:NAME, runs/NAME/models/ROLE.",
        show_default=False,
    ),
]
Out = Annotated[Path, typer.Option("--out", help="Workspace: artifacts, runs and evaluations are kept here.")]
Limit = Annotated[int | None, typer.Option("--limit", min=2, help="At most this many examples.")]
Name = Annotated[str | None, typer.Option("--name", rich_help_panel=OF_RECIPE, help="Only the stage of this name.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", rich_help_panel=OF_RECIPE, metavar="KEY=VALUE", help="Override a field."),
]
Data = Annotated[
    str | None,
    typer.Option("--data", rich_help_panel=OF_FILE, metavar="FILE", help="Examples with answers."),
]
Grader = Annotated[
    str | None,
    typer.Option(
        "--grader",
        rich_help_panel=OF_FILE,
        help="How answers are checked, for instance numeric, maths, choice or code.",
    ),
]
Baseline = Annotated[
    str | None,
    typer.Option(
        "--baseline",
        rich_help_panel=OF_FILE,
        metavar="MODEL",
        help="Compare with this model, example by example.",
    ),
]
Thinking = Annotated[
    str | None, typer.Option("--thinking", help="plain, qwen3 or pangu; guessed from run or template.")
]
Modes = Annotated[
    str | None, typer.Option("--modes", help="reasoning, fast or both with a comma; both if the model thinks.")
]
MaxTokens = Annotated[
    int | None,
    typer.Option("--max-tokens", min=1, help="Longest completion; 512, or what a benchmark says.", show_default=False),
]
Temperature = Annotated[float, typer.Option("--temperature", rich_help_panel=OF_FILE, min=0.0, help="0 is greedy.")]
Samples = Annotated[
    int,
    typer.Option("--samples", rich_help_panel=OF_FILE, min=1, help="Answers per example; needs a temperature."),
]
Seed = Annotated[int, typer.Option("--seed", help="Of the samples, and of which examples --limit takes.")]
Dtype = Annotated[Literal["float32", "bfloat16", "float16"], typer.Option("--dtype", help="Type of the weights.")]
BatchSize = Annotated[
    int | None,
    typer.Option("--batch-size", min=1, help="Completions decoded together; 64, benchmarks 8.", show_default=False),
]
Suite = Annotated[
    Literal["paper"] | None, typer.Option("--suite", rich_help_panel=OF_BENCHMARKS, help="Those of the paper.")
]
Tasks = Annotated[
    str | None,
    typer.Option(
        "--tasks",
        rich_help_panel=OF_BENCHMARKS,
        metavar="A,B",
        help="Tasks of lm-evaluation-harness, instead of --data.",
    ),
]
Include = Annotated[
    Path | None,
    typer.Option("--include-path", rich_help_panel=OF_BENCHMARKS, help="Directory with task files of your own."),
]
Chat = Annotated[
    bool | None,
    typer.Option(
        "--chat-template/--no-chat-template", rich_help_panel=OF_BENCHMARKS, help="Ask through it; if there is one."
    ),
]
UnsafeCode = Annotated[
    bool,
    typer.Option(
        "--unsafe-code", rich_help_panel=OF_BENCHMARKS, help="Execute code that the model writes, unconfined."
    ),
]


def register(app: typer.Typer, *, run_stage: RunStage) -> None:
    """Add the command to `app`."""

    def evaluate(
        target: Target,
        data: Data = None,
        baseline: Baseline = None,
        suite: Suite = None,
        tasks: Tasks = None,
        include_path: Include = None,
        modes: Modes = None,
        thinking: Thinking = None,
        grader: Grader = None,
        limit: Limit = None,
        max_tokens: MaxTokens = None,
        temperature: Temperature = 0.0,
        samples: Samples = 1,
        seed: Seed = 0,
        dtype: Dtype = "float32",
        batch_size: BatchSize = None,
        chat_template: Chat = None,
        unsafe_code: UnsafeCode = False,
        out: Out = Path("runs"),
        name: Name = None,
        set_: Set = None,
    ) -> None:
        """Measure a recipe's models on its held-out examples, or any model on a file of examples or on benchmarks.

        A recipe runs first what its evaluation needs and skips what is done.
        """
        given = {"--data": data, "--suite": suite, "--tasks": tasks}
        if target.endswith(RECIPES):
            of_models: dict[str, object] = {
                "--baseline": baseline,
                "--modes": modes,
                "--thinking": thinking,
                "--grader": grader,
            }
            of_models |= {"--max-tokens": max_tokens, "--temperature": temperature, "--samples": samples > 1}
            of_models |= {"--seed": seed, "--dtype": dtype != "float32", "--batch-size": batch_size}
            of_models |= {"--include-path": include_path, "--unsafe-code": unsafe_code}
            _refuse(f"{target} is a recipe, which says all that itself (or --set does)", given | of_models)
            run_stage(Path(target), out, set_, limit, stage="evaluate", name=name)
            return
        _refuse(f"{target} is taken for a model, not a recipe (*.yaml)", {"--name": name, "--set": set_})
        _require_one(target, given)
        common: dict[str, Any] = {"limit": limit, "seed": seed, "dtype": dtype}
        if data is None:
            own = {"--baseline": baseline, "--grader": grader, "--temperature": temperature, "--samples": samples > 1}
            _refuse("benchmarks have graders and sampling of their own", own)
            common |= {"max_tokens": max_tokens, "chat": chat_template, "unsafe_code": unsafe_code}
            common |= {"batch_size": batch_size or 8, "mode": _one_mode(modes)}
            _run_benchmarks(target, common, suite, tasks, include=include_path, thinking=_known(thinking), out=out)
            return
        benchmarks = {"--include-path": include_path, "--unsafe-code": unsafe_code}
        _refuse("--data has nothing to do with benchmarks", benchmarks | {"--chat-template": chat_template is not None})
        if samples > 1 and temperature == 0:
            _refuse("a greedy answer is the same every time; --temperature 0.7 samples", {"--samples": samples})
        common |= {"samples": samples, "thinking": _known(thinking), "modes": _modes(modes)}
        sampling = {"temperature": temperature, "max_completion_tokens": max_tokens or 512}
        _measure_on_file(target, data, grader, sampling, common, batch_size or 64, baseline=baseline, out=out)

    app.command(
        rich_help_panel="Single stages",
        epilog="\n\n".join(EXAMPLES),
    )(evaluate)


def _refuse(reason: str, options: Mapping[str, object]) -> None:
    """Raises: RecipeError, if one of the options was given."""
    from eyas.errors import RecipeError

    given = [name for name, value in options.items() if value]
    if given:
        raise RecipeError(f"{reason}. Drop {' and '.join(given)}.")


def _require_one(target: str, options: Mapping[str, object]) -> None:
    from eyas.errors import RecipeError

    given = [name for name, value in options.items() if value]
    if len(given) != 1:
        found = " and ".join(given) or "none of them"
        raise RecipeError(f"{target}: expected one of --data FILE, --suite paper and --tasks A,B, found {found}.")


def _modes(text: str | None) -> tuple[Mode, ...] | None:
    from eyas.errors import RecipeError
    from eyas.records import MODES

    wanted = None if text is None else [part.strip() for part in text.split(",")]
    if wanted is None:
        return None
    if not set(wanted) <= set(MODES):
        raise RecipeError(f"--modes {text}: expected {' and '.join(MODES)}, separated by a comma.")
    return tuple(mode for mode in MODES if mode in wanted)


def _one_mode(text: str | None) -> Mode:
    from eyas.errors import RecipeError

    wanted = _modes(text) or ("fast",)
    if len(wanted) > 1:
        raise RecipeError(f"--modes {text}: benchmarks run in one mode at a time. Give fast or reasoning.")
    return wanted[0]


def _known(name: str | None) -> str | None:
    from eyas.errors import RecipeError
    from eyas.recipe import THINKING_FORMATS

    if name is not None and name not in THINKING_FORMATS:
        raise RecipeError(f"--thinking {name}: unknown; known: {', '.join(THINKING_FORMATS)}.")
    return name


def _measure_on_file(
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


def _run_benchmarks(
    target: str,
    common: Mapping[str, Any],
    suite: str | None,
    tasks: str | None,
    *,
    include: Path | None,
    thinking: str | None,
    out: Path,
) -> None:
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
