"""`eyas export` and `eyas deploy`: models as files for a device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eyas.cli_evaluate import RECIPES, RunStage, refuse

if TYPE_CHECKING:
    from eyas.recipe import Format

EXPORT_EXAMPLES = (
    "Examples:",
    "eyas export runs/NAME/models/distilled --format gguf-q8_0",
    "eyas export Qwen/Qwen3-0.6B --format gguf-q8_0 --format onnx-fp16 --data test.jsonl --to device",
    "eyas export recipe.yaml   (its export stages, and what they need)",
)
DEPLOY_EXAMPLES = (
    "Examples:",
    "eyas deploy runs/quickstart",
    "eyas deploy runs/quickstart --format gguf-q8_0 --format gguf-q4_0 --max-rss 1GiB --max-ttft 500ms",
)

TO, OUT, PROMPTS = Path("exports"), Path("runs"), 8

Formats = Annotated[
    list[str] | None,
    typer.Option("--format", metavar="FORMAT", help="May be repeated; docs/deployment.md has the list."),
]
Length = Annotated[
    int | None, typer.Option("--context-length", min=2, help="Of formats with fixed shapes; else at most 1,024.")
]
Budget = Annotated[str | None, typer.Option(metavar="LIMIT", help="For instance 1GiB, 500ms.", show_default=False)]


def register(app: typer.Typer, *, run_stage: RunStage) -> None:
    """Add both commands to `app`."""

    def export(
        target: Annotated[
            str,
            typer.Argument(metavar="RECIPE|MODEL", help="Recipe (*.yaml), hub id or directory.", show_default=False),
        ],
        format_: Formats = None,
        to: Annotated[Path, typer.Option("--to", help="Directory for the files.")] = TO,
        data: Annotated[
            str | None, typer.Option(metavar="FILE", help="Compare with the model on these prompts; else on four.")
        ] = None,
        prompts: Annotated[int, typer.Option(min=1, help="At most so many.")] = PROMPTS,
        context_length: Length = None,
        name: Annotated[str | None, typer.Option("--name", help="Of a recipe only the stage of this name.")] = None,
        out: Annotated[Path, typer.Option("--out", help="Workspace of a recipe.")] = OUT,
    ) -> None:
        """Write a model as GGUF, ONNX or for Ascend; every file is compared with its model, or it is an error."""
        if target.endswith(RECIPES):
            of_models: dict[str, object] = {"--format": format_, "--to": to != TO, "--data": data}
            of_models |= {"--prompts": prompts != PROMPTS, "--context-length": context_length}
            refuse(f"{target} is a recipe, whose export stages say all that themselves", of_models)
            run_stage(Path(target), out, None, None, stage="export", name=name)
            return
        refuse(f"{target} is taken for a model, not a recipe (*.yaml)", {"--name": name, "--out": out != OUT})
        from eyas.console import quieten
        from eyas.export.formats import Choices
        from eyas.exporting import export_model
        from eyas.report.deployment_console import export_line

        quieten()
        formats = known_formats(format_ or ["gguf-q8_0"])
        choices = Choices(context_length=context_length)
        for made in export_model(target, formats=formats, out=to, data=data, prompts=prompts, choices=choices):
            typer.echo(export_line(made))

    def deploy(
        run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a finished run.", show_default=False)],
        format_: Formats = None,
        examples: Annotated[
            int | None, typer.Option(min=0, help="Held-out examples that every file answers in each mode; else all.")
        ] = None,
        rounds: Annotated[
            int | None, typer.Option(min=2, help="Times that every file is measured; 5.", show_default=False)
        ] = None,
        context_length: Length = None,
        max_rss: Budget = None,
        max_size: Budget = None,
        max_ttft: Budget = None,
        max_tpot: Budget = None,
    ) -> None:
        """Turn a run's student and teacher into files, measure them, and say which one to ship.

        Files that the run has already are kept; what is given takes the place of what its recipe says of its export and
        bench stages. The run's report gets the deployment table.
        """
        from eyas.budget import Budget, parse_bytes, parse_seconds
        from eyas.deploy import deploy as deploy_run

        budget = Budget(
            rss_bytes=None if max_rss is None else parse_bytes(max_rss),
            bytes=None if max_size is None else parse_bytes(max_size),
            ttft_s=None if max_ttft is None else parse_seconds(max_ttft),
            tpot_s=None if max_tpot is None else parse_seconds(max_tpot),
        )
        formats = known_formats(format_ or [])
        deploy_run(run, formats=formats, examples=examples, rounds=rounds, budget=budget, context_length=context_length)

    app.command(epilog="\n\n".join(EXPORT_EXAMPLES))(export)
    app.command(epilog="\n\n".join(DEPLOY_EXAMPLES))(deploy)


def known_formats(asked: list[str]) -> list[Format]:
    """Raises: RecipeError, for a format that there is none of, with the nearest."""
    import difflib
    from typing import get_args

    from eyas.errors import RecipeError
    from eyas.recipe import Format

    known = get_args(Format)
    for name in asked:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise RecipeError(f"--format {name}: no such format; {hint}Formats: {', '.join(known)}.")
    return [name for name in known if name in asked]
