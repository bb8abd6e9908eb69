"""`eyas ablate`: every variant times every seed as a run of its own, common stages made once, then one page."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eyas.console import run_with_progress
from eyas.errors import EyasError, Locked
from eyas.graph import build_graph
from eyas.planning import checked_seconds, probe_machine
from eyas.recipe import Recipe, lineage, read_recipe, recipe_from
from eyas.recipe.variants import Variant, variant_recipe, variants_of
from eyas.report.ablation import Ablation, Grades, Measured
from eyas.report.ablation_page import as_dict, markdown, render
from eyas.report.evidence import Evidence, read_predictions
from eyas.report.words import duration
from eyas.storage.artifacts import Artifact, atomic_path, write_json
from eyas.storage.locks import locked

WAIT_S = 2.0
"""Between two looks whether another process is done with a shared artifact."""


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
    data, where = read_recipe(path, overrides=overrides)
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

    The three are written after every seed.

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
                evidence = Evidence(recipe, _run(recipe, workspace=workspace, console=console))
                measured[key] = measure(evidence, known=known)
                hardware = hardware or next(iter(evidence.hardware()), {})
            except EyasError as error:
                failures[key] = f"{type(error).__name__}: {error}"
                console.print(f"FAILED {recipe.name}: {failures[key]}", style="bold red", markup=False)
            if number % len(study.variants) == 0:  # a page after every seed: what is stopped has one too
                table = _publish(study, measured, failures, hardware, directory=directory)
    console.print(table, markup=False)
    console.print(f"Page: {directory / 'ablation.html'}")
    return not failures


def _run(recipe: Recipe, *, workspace: Path, console: Console) -> Mapping[str, Artifact]:
    """Run one variant; what another process is making is waited for, since variants share it."""
    told = False
    while True:
        try:
            return run_with_progress(recipe, recipe_text=_written(recipe), workspace=workspace, console=console)
        except Locked as error:
            if not told:
                console.print(f"Waiting: {error}", markup=False)
            told = True
            time.sleep(WAIT_S)


def measure(evidence: Evidence, *, known: dict[Path, Grades]) -> dict[str, Measured]:
    """Role -> what a finished run measured of it; `known` keeps the answers of evaluations already read."""
    found = {}
    for role in evidence.roles:
        evaluation = evidence.artifacts[evidence.evaluations[role]]
        if evaluation.path not in known:
            answers = read_predictions(evaluation.path / "predictions")
            known[evaluation.path] = {key: made.grade for key, made in answers.items() if made.grade is not None}
        lengths = {
            mode: (share["mean_tokens"], share["truncated"]) for mode, share in evaluation.facts["accuracy"].items()
        }
        found[role] = Measured(known[evaluation.path], evaluation.fingerprint, _seconds(evidence, role), lengths)
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
) -> str:
    """Write page, table and JSON.

    Returns: the table.
    """
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
    return table


def print_ablation_plan(study: Study, *, workspace: Path) -> None:
    """One line a variant: how many artifacts its runs need, which are done, shared with one above or to do, and time.

    Raises: PairMismatch, ModelError or DataError, if a variant would not get past its first checks.
    """
    console = Console(highlight=False)
    machine = probe_machine()
    seen: set[Path] = set()
    costs: dict[str, dict[str, float]] = {}
    lines = {variant.name: _Line() for variant in study.variants}
    for (variant, _), recipe in study.recipes.items():
        nodes = build_graph(recipe, workspace=workspace)
        if variant not in costs:  # seeds cost alike
            costs[variant] = checked_seconds(recipe, nodes, machine=machine)
        needed = {node.directory: node for node in nodes}
        new = {path: node for path, node in needed.items() if path not in seen}
        open_ = [node for node in new.values() if node.finished() is None]
        lines[variant] += _Line(
            needed=len(needed), done=len(new) - len(open_), shared=len(needed) - len(new), to_do=len(open_),
            seconds=sum(costs[variant][node.name] for node in open_),
        )  # fmt: skip
        seen |= needed.keys()
    console.print(_plan_table(study, lines))
    total = sum(lines.values(), _Line())
    console.print(
        f"{total.to_do} artifacts to do of {len(seen)}, about {duration(total.seconds)}. "
        "Times are rough: within a factor of two or three."
    )


@dataclass(frozen=True)
class _Line:
    """What the runs of a variant need: artifacts, and seconds for those to do."""

    needed: int = 0
    done: int = 0
    shared: int = 0
    to_do: int = 0
    seconds: float = 0.0

    def __add__(self, other: _Line) -> _Line:
        return _Line(
            self.needed + other.needed, self.done + other.done, self.shared + other.shared, self.to_do + other.to_do,
            self.seconds + other.seconds,
        )  # fmt: skip


def _plan_table(study: Study, lines: Mapping[str, _Line]) -> Table:
    seeds = len(study.seeds)
    head = f"{study.recipe.name}: {len(lines)} variant{'s' * (len(lines) > 1)}, {seeds} seed{'s' * (seeds > 1)}"
    table = Table(
        box=box.SIMPLE_HEAD, title=f"{head}, {len(study.recipes)} runs", title_justify="left", pad_edge=False,
        caption="artifacts, over all seeds", caption_justify="left",
    )  # fmt: skip
    table.add_column("variant", overflow="fold")
    for name in ("needed", "done", "shared", "to do", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    for variant in study.variants:
        line = lines[variant.name]
        counts = (line.needed, line.done, line.shared, line.to_do)
        table.add_row(escape(variant.label), *map(str, counts), duration(line.seconds) if line.to_do else "")
    return table
