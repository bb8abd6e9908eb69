"""`eyas deploy RUN`: a finished run's models as files for a device, measured, and which one to ship."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from rich.console import Console

from eyas.budget import Budget, recommend
from eyas.console import run_with_progress
from eyas.errors import ArtifactError
from eyas.graph import build_graph
from eyas.pipeline import read_summary
from eyas.recipe import BenchStage, EvaluateStage, ExportStage, Format, Recipe, parse_recipe
from eyas.report.deployment_console import deployment_table, ratio_lines, recommendation_lines
from eyas.storage.artifacts import read_json

FORMATS: tuple[Format, ...] = ("gguf-f16", "gguf-q8_0", "onnx-fp16")
"""What is made where neither the recipe nor the command says."""
EDGE = ("export", "bench", "report")
"""Types of the stages that this command may run."""


def deploy(run: Path, *, formats: Sequence[Format], examples: int | None, rounds: int, budget: Budget) -> None:
    """Add `export` and `bench` to a run that has none, run what is missing, print the table and a recommendation.

    Raises: ArtifactError, if the run is none, unfinished, or made by another version; ExportError, BenchError.
    """
    recipe, added = edge_recipe(run, formats=formats, examples=examples, rounds=rounds)
    missing = [
        node.name
        for node in build_graph(recipe, workspace=run.parent)
        if node.type not in EDGE and node.finished() is None
    ]
    if missing:
        raise ArtifactError(
            f"{run}: {', '.join(missing)} not there as the recipe and this version of eyas would make them. Run "
            f"`eyas run {run / 'recipe.yaml'} --out {run.parent}` first, which makes what is missing."
        )
    console = Console()
    run_with_progress(recipe, recipe_text=_text(run, recipe, added=added), workspace=run.parent, console=console)
    summary = read_summary(run)
    rows = summary["deployment"]
    console.print(deployment_table(rows))
    for line in [*ratio_lines(rows), *recommendation_lines(recommend(rows, budget), budget)]:
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"Files: {run / 'exports'}   Report: {run / 'report.html'}", highlight=False, soft_wrap=True)


def edge_recipe(run: Path, *, formats: Sequence[Format], examples: int | None, rounds: int) -> tuple[Recipe, bool]:
    """The run's recipe with export and bench stages, and whether they had to be added, before the report.

    Raises: ArtifactError, if there is no finished run, or nothing was evaluated in it.
    """
    resolved = read_json(run / "resolved.json")
    recipe = parse_recipe(resolved, where=str(run / "resolved.json"))
    if any(isinstance(stage, ExportStage | BenchStage) for stage in recipe.stages):
        return recipe, False
    evaluations = [stage for stage in recipe.stages if isinstance(stage, EvaluateStage)]
    if not evaluations:
        raise ArtifactError(f"{run}: its recipe has no evaluate stage, so there is no model to deploy. Add one.")
    evaluation = evaluations[-1]
    roles: list[str] = [role for role in ("distilled", "teacher") if role in evaluation.models] or list(
        evaluation.models
    )
    export = {
        "type": "export", "models": roles, "evaluation": evaluation.name, "formats": list(formats or FORMATS),
        "examples": examples,
    }  # fmt: skip
    stages = resolved["stages"]
    at = next((index for index, stage in enumerate(stages) if stage["type"] == "report"), len(stages))
    report = [] if at < len(stages) else [{"type": "report"}]
    added = {**resolved, "stages": [*stages[:at], export, {"type": "bench", "rounds": rounds}, *stages[at:], *report]}
    return parse_recipe(added, where=str(run / "resolved.json")), True


def _text(run: Path, recipe: Recipe, *, added: bool) -> str:
    """What `recipe.yaml` of the run says from now on."""
    if not added:
        return (run / "recipe.yaml").read_text(encoding="utf-8")
    said = recipe.model_dump(by_alias=True, mode="json")
    return "# As it was run, every default written out, with the stages that `eyas deploy` added.\n" + yaml.safe_dump(
        said, sort_keys=False, allow_unicode=True, width=120
    )
