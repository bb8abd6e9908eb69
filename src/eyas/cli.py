"""The command line. Parses, then hands over; torch is loaded only by commands that compute."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from eyas import cli_bench, cli_edge, cli_evaluate, cli_serve

app = typer.Typer(
    name="eyas",
    no_args_is_help=True,
    rich_markup_mode="rich",
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train a small language model to do a big model's job on an edge device, and prove it.",
    epilog="Start with: eyas init --student A --teacher B --data FILE, then eyas plan and eyas run.",
)

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe file (YAML).", show_default=False)]
Out = Annotated[Path, typer.Option("--out", help="Workspace: artifacts and runs are kept here.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a field: seed=1, stages.distill.prefix=teacher."),
]
Limit = Annotated[
    int | None,
    typer.Option("--limit", min=2, help="Smoke run: at most this many examples a split, two optimiser steps a stage."),
]
Name = Annotated[str | None, typer.Option("--name", help="Only the stage of this name, not all of the type.")]


@app.command(epilog="Example: eyas run recipes/quickstart.yaml --set seed=1 --set name=quickstart-1")
def run(recipe: RecipePath, out: Out = Path("runs"), set_: Set = None, limit: Limit = None) -> None:
    """Run a recipe to its end, or continue where it stopped, and print the result table."""
    _run(recipe, out, set_, limit, stage=None, name=None)


@app.command(epilog="Example: eyas plan recipes/quickstart.yaml")
def plan(recipe: RecipePath, out: Out = Path("runs"), set_: Set = None, limit: Limit = None) -> None:
    """Say what a run would do and skip and why, what it would cost, and whether the two models fit together."""
    from eyas.planning import print_plan

    loaded, _ = _load(recipe, set_, limit)
    print_plan(loaded, workspace=out)


@app.command(
    epilog="Examples:\n\neyas ablate recipes/quickstart.yaml --vary stages.distill.prefix=student,teacher --seeds 3\n\n"
    "eyas ablate recipes/paper-ablation.yaml --plan"
)
def ablate(
    recipe: RecipePath,
    vary: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE,VALUE", help="A field and its values; several make a grid. First: baseline."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0 to this minus one.")] = 3,
    only: Annotated[
        list[str] | None, typer.Option(metavar="VARIANT", help="Of the variants only this one; may be repeated.")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what would be run, and run nothing.")] = False,
    out: Out = Path("runs"),
    set_: Set = None,
    limit: Limit = None,
) -> None:
    """Run a recipe's variants (or a grid of --vary) over several seeds, and compare them on one page."""
    from eyas.ablation import load_study, print_ablation_plan, run_study

    study = load_study(recipe, vary=vary or (), only=only or (), seeds=seeds, overrides=set_ or (), limit=limit)
    if plan:
        print_ablation_plan(study, workspace=out)
    elif not run_study(study, workspace=out):
        raise typer.Exit(code=1)


@app.command(
    epilog="Examples:\n\neyas init --student Qwen/Qwen3-0.6B --teacher Qwen/Qwen3-4B --data train.jsonl\n\n"
    "eyas init --student A --teacher B --data MATH.parquet --fields prompt=problem,answer=solution --grader maths"
)
def init(
    student: Annotated[str, typer.Option(help="Hub id, local directory or builtin:NAME.")],
    teacher: Annotated[str, typer.Option(help="Hub id, local directory or builtin:NAME.")],
    data: Annotated[str, typer.Option(help="Data file, directory of shards, pattern, or builtin:arithmetic.")],
    test_data: Annotated[
        str | None, typer.Option(help="Test examples; without it a tenth of the data, by hash.")
    ] = None,
    fields: Annotated[
        str | None, typer.Option(metavar="prompt=X,answer=Y", help="What the data's fields are called (docs/data.md).")
    ] = None,
    grader: Annotated[
        str | None, typer.Option(help="How answers are checked (docs/graders.md); guessed from the answers.")
    ] = None,
    to: Annotated[Path, typer.Option("--to", help="Where to write the recipe.")] = Path("recipe.yaml"),
    thinking: Annotated[str | None, typer.Option(help="plain, qwen3 or pangu; guessed from the template.")] = None,
) -> None:
    """Write a commented recipe with defaults that fit the sizes of the two models."""
    from eyas.init import Data, write_recipe

    told = Data(data, test_path=test_data, fields=fields, grader=grader)
    write_recipe(to, student=student, teacher=teacher, data=told, thinking=thinking)


cli_serve.register(app)

SINGLE_STAGES = "Single stages of a recipe, and what they need"


def _stage_command(stage: str, summary: str) -> None:
    def command(
        recipe: RecipePath, name: Name = None, out: Out = Path("runs"), set_: Set = None, limit: Limit = None
    ) -> None:
        _run(recipe, out, set_, limit, stage=stage, name=name)

    command.__doc__ = summary + " Runs what that needs first and skips what is done."
    example = f"Example: eyas {stage} recipe.yaml"
    app.command(name=stage, rich_help_panel=SINGLE_STAGES, short_help=summary, epilog=example)(command)


for _name, _summary in {
    "prepare": "Load, filter and split the recipe's data.",
    "sft": "Supervised fine-tuning on labels.",
    "rollout": "Sample completions as token ids.",
    "synthesize": "Make labels of the teacher's answers: verified, or agreed upon.",
    "score": "Score sequences once with the teacher.",
    "distill": "Train on rollouts against the teacher's scores.",
    "report": "Write report.html and summary.json.",
}.items():
    _stage_command(_name, _summary)


def _load(path: Path, overrides: list[str] | None, limit: int | None) -> tuple[Any, str]:
    from eyas.recipe import load_recipe

    loaded = load_recipe(path, overrides=overrides or (), limit=limit)
    return loaded, path.read_text(encoding="utf-8")


def _run(
    path: Path, out: Path, overrides: list[str] | None, limit: int | None, *, stage: str | None, name: str | None
) -> None:
    loaded, text = _load(path, overrides, limit)
    from eyas.console import run_and_show

    run_and_show(loaded, recipe_text=text, workspace=out, stage=stage, name=name)


cli_evaluate.register(app, run_stage=_run)
cli_edge.register(app, run_stage=_run)
cli_bench.register(app, run_stage=_run)

QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
"""Libraries' own bars would tear ours; read by them when they are imported."""


INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it: 128 + SIGINT."""


def main() -> None:
    """Entry point: a known error is one message and exit code 1, an interrupt exits with 130."""
    from eyas.errors import EyasError

    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        app()
    except EyasError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        raise SystemExit(1) from None
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit) and stop.code != INTERRUPTED:  # typer exits with it, and says nothing
            raise
        sys.stderr.write("\nInterrupted. The same command continues where this one stopped.\n")
        raise SystemExit(INTERRUPTED) from None
