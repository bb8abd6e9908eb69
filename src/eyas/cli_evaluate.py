"""`eyas evaluate`: a recipe's evaluation stages, or any model on a file of examples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import typer

if TYPE_CHECKING:
    from eyas.measurement import Measure
    from eyas.records import Mode

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
Name = Annotated[str | None, typer.Option("--name", help="Recipe: only the stage of this name.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Recipe: override a field.")]
Data = Annotated[str | None, typer.Option("--data", metavar="FILE", help="Examples with answers.")]
Grader = Annotated[str | None, typer.Option("--grader", help="How answers are checked, for instance numeric or exact.")]
Baseline = Annotated[
    str | None, typer.Option("--baseline", metavar="MODEL", help="Compare with this model, example by example.")
]
Thinking = Annotated[
    str | None, typer.Option("--thinking", help="plain, qwen3 or pangu; guessed from run or template.")
]
Modes = Annotated[
    str | None, typer.Option("--modes", help="reasoning, fast or both with a comma; both if the model thinks.")
]
MaxTokens = Annotated[int, typer.Option("--max-tokens", min=1, help="Longest completion.")]
Temperature = Annotated[float, typer.Option("--temperature", min=0.0, help="0 is greedy.")]
Samples = Annotated[int, typer.Option("--samples", min=1, help="Answers per example; needs a temperature.")]
Seed = Annotated[int, typer.Option("--seed", help="Of the samples, and of which examples --limit takes.")]
Dtype = Annotated[Literal["float32", "bfloat16", "float16"], typer.Option("--dtype", help="Type of the weights.")]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Completions decoded together.")]


def register(app: typer.Typer, *, run_stage: RunStage) -> None:
    """Add the command to `app`."""

    def evaluate(
        target: Target,
        data: Data = None,
        baseline: Baseline = None,
        modes: Modes = None,
        thinking: Thinking = None,
        grader: Grader = None,
        limit: Limit = None,
        max_tokens: MaxTokens = 512,
        temperature: Temperature = 0.0,
        samples: Samples = 1,
        seed: Seed = 0,
        dtype: Dtype = "float32",
        batch_size: BatchSize = 64,
        out: Out = Path("runs"),
        name: Name = None,
        set_: Set = None,
    ) -> None:
        """Measure a recipe's models on its held-out examples, or any model on a file of examples.

        A recipe runs first what its evaluation needs and skips what is done.
        """
        from eyas.errors import RecipeError

        if target.endswith(RECIPES):
            if data or baseline:
                raise RecipeError(f"{target} is a recipe, which names its data and models. Drop --data and --baseline.")
            run_stage(Path(target), out, set_, limit, stage="evaluate", name=name)
            return
        if name or set_:
            raise RecipeError(f"--name and --set are for recipes (*.yaml); {target} is taken for a model. Drop them.")
        if data is None:
            raise RecipeError(f"{target}: a model needs examples. Give --data FILE.")
        from eyas.recipe import ExecutionSpec, FileSource, SamplingSpec

        source = {"type": "file", "path": data, "test_path": data} | ({"grader": grader} if grader else {})
        if samples > 1 and temperature == 0:
            raise RecipeError("--samples above 1 gives the same answer again when greedy. Add --temperature 0.7.")
        from eyas.measurement import Measure

        _evaluate(
            target,
            Measure(
                data=FileSource.model_validate(source),
                sampling=SamplingSpec(temperature=temperature, max_completion_tokens=max_tokens),
                execution=ExecutionSpec(generation_batch_size=batch_size),
                limit=limit,
                samples=samples,
                seed=seed,
                thinking=_known_format(thinking),
                modes=_modes(modes),
                dtype=dtype,
            ),
            baseline=baseline,
            out=out,
        )

    app.command(
        rich_help_panel="Single stages",
        epilog="Example: eyas evaluate HuggingFaceTB/SmolLM2-135M-Instruct --data test.jsonl --limit 200",
    )(evaluate)


def _modes(text: str | None) -> tuple[Mode, ...] | None:
    from eyas.errors import RecipeError
    from eyas.records import MODES

    wanted = None if text is None else [part.strip() for part in text.split(",")]
    if wanted is None:
        return None
    if not set(wanted) <= set(MODES):
        raise RecipeError(f"--modes {text}: expected {' and '.join(MODES)}, separated by a comma.")
    return tuple(mode for mode in MODES if mode in wanted)


def _known_format(name: str | None) -> str | None:
    from eyas.errors import RecipeError
    from eyas.recipe import THINKING_FORMATS

    if name is not None and name not in THINKING_FORMATS:
        raise RecipeError(f"--thinking {name}: unknown; known: {', '.join(THINKING_FORMATS)}.")
    return name


def _evaluate(target: str, measure: Measure, *, baseline: str | None, out: Path) -> None:
    from functools import partial

    from rich.console import Console

    from eyas.console import progress_bars, quieten, shown
    from eyas.measurement import compare, evaluate_model

    quieten()
    console = Console(highlight=False)
    bars = progress_bars(console)
    with bars:
        display = partial(shown, console=console, bars=bars)
        found = evaluate_model(target, measure, workspace=out, shown=display)
        rival = None if baseline is None else evaluate_model(baseline, measure, workspace=out, shown=display)
    differences = {} if rival is None else compare(found, rival)
    from eyas.report.evaluation import evaluation_table

    facts: list[Any] = [found.facts, *([] if rival is None else [rival.facts])]
    console.print(evaluation_table(facts, differences))
    console.print(f"Predictions and evaluation.json: {found.directory}", soft_wrap=True)
