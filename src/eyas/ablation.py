"""`eyas ablate`: every variant times every seed as a run of its own, common stages made once, then one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich import box
from rich.console import Console
from rich.table import Table

from eyas.console import run_with_progress
from eyas.errors import EyasError
from eyas.graph import build_graph
from eyas.planning import checked_seconds, probe_machine
from eyas.recipe import Recipe, lineage, override, read_recipe, recipe_from
from eyas.recipe.variants import Variant, variant_recipe, variants_of
from eyas.report.ablation import Ablation, Grades, Measured
from eyas.report.ablation_page import as_dict, markdown, render
from eyas.report.evidence import Evidence, read_predictions
from eyas.report.words import duration
from eyas.storage.artifacts import Artifact, atomic_path, write_json
from eyas.storage.locks import locked


@dataclass(frozen=True)
class Study:
    """What is to be run."""

    recipe: Recipe
    """As written, with its claims."""
    variants: Sequence[Variant]
    seeds: Sequence[int]
    recipes: Mapping[tuple[str, int], Recipe]
    """(variant, seed) -> what runs, in order: all variants of the first seed, then of the next."""
    declared: bool
    """Whether the variants are the recipe's own, which its claims are about."""


def load_study(
    path: Path,
    *,
    vary: Sequence[str] = (),
    only: Sequence[str] = (),
    seeds: int,
    overrides: Sequence[str] = (),
    limit: int | None = None,
) -> Study:
    """Every recipe of the ablation, all of them validated.

    Raises: RecipeError, naming the variant, before anything is run.
    """
    data = read_recipe(path)
    for setting in overrides:
        override(data, setting)
    where = " ".join([str(path), *(f"--set {setting}" for setting in overrides)])
    recipe = recipe_from(data, where=where, limit=limit)
    variants = variants_of(recipe, vary=vary, only=only)
    recipes = {
        (variant.name, seed): variant_recipe(data, variant, seed=seed, where=where, limit=limit)
        for seed in range(seeds)
        for variant in variants
    }
    return Study(recipe, variants, range(seeds), recipes, declared=not vary)


def run_study(study: Study, *, workspace: Path) -> bool:
    """Run what is not done, write the page, the table and the JSON; a failed run is reported and the rest goes on.

    Returns: whether every run finished.
    Raises: Locked, if another ablation of this name is at work.
    """
    console = Console(highlight=False, soft_wrap=True)
    directory = workspace / f"{study.recipe.name}-ablation"
    with locked(directory, purpose=f"ablation {study.recipe.name}"):
        measured: dict[tuple[str, int], dict[str, Measured]] = {}
        failures: dict[tuple[str, int], str] = {}
        hardware: Mapping[str, Any] = {}
        known: dict[Path, Grades] = {}
        for number, (key, recipe) in enumerate(study.recipes.items(), start=1):
            console.print(f"{number}/{len(study.recipes)} {recipe.name}", style="bold")
            try:
                done = run_with_progress(recipe, recipe_text=_written(recipe), workspace=workspace, console=console)
                evidence = Evidence(recipe, done)
                measured[key] = measure(evidence, known=known)
            except EyasError as error:
                failures[key] = f"{type(error).__name__}: {error}"
                console.print(f"FAILED {recipe.name}: {failures[key]}", style="bold red", markup=False)
                continue
            hardware = hardware or next(iter(evidence.hardware()), {})
        _publish(study, measured, failures, hardware, directory=directory, console=console)
    return not failures


def measure(evidence: Evidence, *, known: dict[Path, Grades]) -> dict[str, Measured]:
    """Role -> what a finished run measured of it; `known` keeps the answers of evaluations already read."""
    found = {}
    for role in evidence.roles:
        evaluation = evidence.artifacts[evidence.evaluations[role]]
        if evaluation.path not in known:
            answers = read_predictions(evaluation.path / "predictions")
            known[evaluation.path] = {key: made.grade for key, made in answers.items() if made.grade is not None}
        found[role] = Measured(known[evaluation.path], evaluation.fingerprint, _seconds(evidence, role))
    return found


def _seconds(evidence: Evidence, role: str) -> float:
    """Of all that made the role's model, an artifact that two of its stages share counted once."""
    stages = lineage(list(evidence.stages.values()), evidence.model_name(role), start=None)
    made: dict[Path, Artifact] = {
        evidence.artifacts[stage.name].path: evidence.artifacts[stage.name] for stage in stages
    }
    return sum(artifact.seconds for artifact in made.values())


def _written(recipe: Recipe) -> str:
    """A recipe file that runs this variant alone."""
    data = recipe.model_dump(by_alias=True, mode="json", exclude_unset=True, exclude={"ablation"})
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100)


def _publish(
    study: Study,
    measured: Mapping[tuple[str, int], Mapping[str, Measured]],
    failures: Mapping[tuple[str, int], str],
    hardware: Mapping[str, Any],
    *,
    directory: Path,
    console: Console,
) -> None:
    declared = study.recipe.ablation if study.declared else None
    ablation = Ablation(
        name=study.recipe.name,
        description=study.recipe.description,
        seeds=tuple(study.seeds),
        variants={variant.name: variant.label for variant in study.variants},
        changes={variant.name: dict(variant.changes) for variant in study.variants},
        measured=measured,
        failures=failures,
        claims=() if declared is None else declared.claims,
        hardware=hardware,
    )
    table = markdown(ablation)
    write_json(directory / "ablation.json", as_dict(ablation))
    for name, text in (("ablation.md", table), ("ablation.html", render(ablation))):
        with atomic_path(directory / name) as draft:
            draft.write_text(text, encoding="utf-8")
    console.print(table, markup=False)
    console.print(f"Page: {directory / 'ablation.html'}")


def print_ablation_plan(study: Study, *, workspace: Path) -> None:
    """One line a run: how many artifacts it needs, which of them are done, shared with a run above or to do, and time.

    Raises: PairMismatch, ModelError or DataError, if a variant would not get past its first checks.
    """
    console = Console(highlight=False)
    machine = probe_machine()
    table = Table(box=box.SIMPLE_HEAD, title=f"{study.recipe.name}: {len(study.recipes)} runs", title_justify="left")
    table.add_column("run", overflow="fold")
    for name in ("artifacts", "done", "shared", "to do", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    seen: set[Path] = set()
    costs: dict[str, dict[str, float]] = {}
    to_do, total_s = 0, 0.0
    for (variant, _), recipe in study.recipes.items():
        nodes = build_graph(recipe, workspace=workspace)
        if variant not in costs:  # seeds cost alike
            costs[variant] = checked_seconds(recipe, nodes, machine=machine)
        needed = {node.directory: node for node in nodes}
        new = {path: node for path, node in needed.items() if path not in seen}
        open_ = [node for node in new.values() if node.finished() is None]
        seconds = sum(costs[variant][node.name] for node in open_)
        counts = (len(needed), len(new) - len(open_), len(needed) - len(new), len(open_))
        table.add_row(recipe.name, *map(str, counts), duration(seconds) if open_ else "")
        seen |= needed.keys()
        to_do, total_s = to_do + len(open_), total_s + seconds
    console.print(table)
    console.print(
        f"{to_do} artifacts to do of {len(seen)}, about {duration(total_s)}. "
        "Times are rough: within a factor of two or three."
    )
