"""`eyas deploy RUN`: a finished run's models as files for a device, measured, and which one to ship."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from eyas.budget import Budget, recommend
from eyas.console import run_with_progress
from eyas.errors import ArtifactError
from eyas.graph import build_graph
from eyas.pipeline import read_summary
from eyas.recipe import NOT_RUN_HERE, EvaluateStage, Format, Recipe, parse_recipe
from eyas.report.deployment_console import deployment_table, ratio_lines, recommendation_lines
from eyas.storage.artifacts import atomic_path, read_json

ORIGINAL = "recipe.original.yaml"
"""The recipe of a run as its user wrote it, once this command has changed `recipe.yaml`."""
CHANGED = f"# What was run, every default written out: {ORIGINAL} with what `eyas deploy` added and changed.\n"
FORMATS: tuple[Format, ...] = ("gguf-f16", "gguf-q8_0", "onnx-fp16")
"""What is made where neither the recipe nor the command says."""
EDGE = ("export", "bench", "report")
"""Types of the stages that this command may run."""


def deploy(
    run: Path,
    *,
    formats: Sequence[Format],
    examples: int | None,
    rounds: int | None,
    context_length: int | None,
    budget: Budget,
) -> None:
    """Add the `export` and `bench` that a run lacks, run what is missing, print the table and a recommendation.

    Raises: ArtifactError, if the run is none, unfinished, or made by another version; ExportError, BenchError.
    """
    run = run if run.name not in ("", "..") and not run.is_symlink() else run.resolve()
    recipe, changed = edge_recipe(run, formats=formats, examples=examples, rounds=rounds, context_length=context_length)
    if recipe.name != run.name:
        raise ArtifactError(
            f"{run}: this run was made as {recipe.name!r}, and would be written there. Call the directory so again."
        )
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
    if changed:
        _keep_original(run)
    run_with_progress(recipe, recipe_text=_text(run, recipe, changed=changed), workspace=run.parent, console=console)
    summary = read_summary(run)
    rows = summary["deployment"]
    console.print(deployment_table(rows))
    for line in [*ratio_lines(rows), *recommendation_lines(recommend(rows, budget), budget)]:
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"Files: {run / 'exports'}   Report: {run / 'report.html'}", highlight=False, soft_wrap=True)


def edge_recipe(
    run: Path,
    *,
    formats: Sequence[Format],
    examples: int | None,
    rounds: int | None,
    context_length: int | None,
) -> tuple[Recipe, bool]:
    """The run's recipe with export, bench and report stages, and whether that is another one than before.

    What is given takes the place of what export and bench stages that are there say. No bench stage where nothing runs
    here.

    Raises: ArtifactError, if there is no finished run, or nothing was evaluated in it.
    """
    resolved = read_json(run / "resolved.json")
    recipe = parse_recipe(resolved, where=str(run / "resolved.json"))
    said = {"formats": list(formats) or None, "examples": examples, "context_length": context_length}
    given = {key: value for key, value in said.items() if value is not None}
    stages = [stage | (given if stage["type"] == "export" else {}) for stage in resolved["stages"]]
    if not any(stage["type"] == "export" for stage in stages):
        _put(stages, {"type": "export", "name": "export", **_defaults(run, recipe), **given})
    exports = [stage for stage in stages if stage["type"] == "export"]
    measured = [stage["name"] for stage in exports if set(stage["formats"]) - set(NOT_RUN_HERE)]
    benches = [stage for stage in stages if stage["type"] == "bench"]
    if not measured:
        stages = [stage for stage in stages if stage not in benches]
    elif not benches:
        _put(stages, {"type": "bench", "exports": measured, **({} if rounds is None else {"rounds": rounds})})
    elif rounds is not None:
        stages = [stage | ({"rounds": rounds} if stage in benches else {}) for stage in stages]
    if not any(stage["type"] == "report" for stage in stages):
        stages.append({"type": "report"})
    made = parse_recipe({**resolved, "stages": stages}, where=str(run / "resolved.json"))
    return made, made != recipe


def _put(stages: list[dict[str, Any]], stage: dict[str, Any]) -> None:
    """Before the report, which is of all that comes before it."""
    stages.insert(next((at for at, other in enumerate(stages) if other["type"] == "report"), len(stages)), stage)


def _defaults(run: Path, recipe: Recipe) -> dict[str, Any]:
    """What an export stage says that the run has not: the trained model and the teacher of the last greedy evaluation.

    Raises: ArtifactError, if nothing was evaluated.
    """
    evaluations = [stage for stage in recipe.stages if isinstance(stage, EvaluateStage)]
    if not evaluations:
        raise ArtifactError(f"{run}: its recipe has no evaluate stage, so there is no model to deploy. Add one.")
    greedy = [stage for stage in evaluations if stage.sampling.temperature == 0]
    evaluation = (greedy or evaluations)[-1]
    trained = [role for role in evaluation.models if role not in ("base", "teacher")]
    student = "distilled" if "distilled" in trained else (trained or ["base"])[-1]
    return {
        "models": [role for role in (student, "teacher") if role in evaluation.models],
        "formats": list(FORMATS), "evaluation": evaluation.name,
    }  # fmt: skip


def _keep_original(run: Path) -> None:
    text = (run / "recipe.yaml").read_text(encoding="utf-8")
    if not text.startswith(CHANGED):
        with atomic_path(run / ORIGINAL) as draft:
            draft.write_text(text, encoding="utf-8")


def _text(run: Path, recipe: Recipe, *, changed: bool) -> str:
    """What `recipe.yaml` of the run says from now on."""
    if not changed:
        return (run / "recipe.yaml").read_text(encoding="utf-8")
    said = recipe.model_dump(by_alias=True, mode="json")
    return CHANGED + yaml.safe_dump(said, sort_keys=False, allow_unicode=True, width=120)
