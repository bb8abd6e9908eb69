"""Run a recipe: every node that is not done, in order, each sealed by its manifest; then link the run together."""

from __future__ import annotations

import gc
import importlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from eyas.errors import ArtifactError, RecipeError, TrainingError
from eyas.graph import Node, build_graph
from eyas.preflight import check_recipe, require_formats
from eyas.recipe import ExportStage, ModelSpec, Recipe, ReportStage, calibration_source, expand
from eyas.stages.export import judge
from eyas.storage.artifacts import (
    CLOCK,
    MANIFEST,
    PRIVATE,
    Artifact,
    StageClock,
    atomic_path,
    damaged_files,
    disk_errors,
    open_artifact,
    read_json,
    remove_leftovers,
    seal,
    write_json,
)
from eyas.storage.context import Progress, StageContext
from eyas.storage.hardware import describe_hardware
from eyas.storage.locks import locked
from eyas.storage.models import device_of, materialise, parameter_count, weight_bytes
from eyas.storage.process import prepare_process
from eyas.storage.pruning import Calibration
from eyas.tasks.calibration import calibration_examples

ProgressFactory = Callable[[Node, int, int], AbstractContextManager[Progress]]
"""(node, its number, number of nodes) -> a progress bar for as long as the stage runs."""


def run_recipe(
    recipe: Recipe,
    *,
    recipe_text: str,
    workspace: Path,
    progress: ProgressFactory,
    wanted: Callable[[Node], bool] | None = None,
) -> dict[str, Artifact]:
    """Make everything the recipe needs that does not exist yet; with `wanted` only those nodes and what they read.

    Returns: node name -> artifact.
    Raises: EyasError; everything finished before it is kept and found again by the same command.
    """
    if os.environ.get("WORLD_SIZE", "1") not in ("", "1"):
        raise TrainingError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}: `eyas run` is one process and cannot run under torchrun. "
            "Start it alone."
        )
    run = workspace / recipe.name
    with locked(run, purpose=f"run {recipe.name}"), disk_errors(run), _old_objects_left_alone():
        prepare_process(recipe.execution)
        nodes = build_graph(recipe, workspace=workspace)
        needed = list(nodes) if wanted is None else _needed(nodes, wanted)
        require_formats(needed)
        with TemporaryDirectory() as scratch:
            check_recipe(recipe, nodes, Path(scratch), needed=needed)
        with atomic_path(run / "recipe.yaml") as draft:
            draft.write_text(recipe_text)
        write_json(run / "resolved.json", recipe.model_dump(by_alias=True, mode="json"))
        before = _read_index(run, nodes)
        done: dict[str, Artifact] = {}
        for number, node in enumerate(needed, start=1):
            done[node.name] = _finish(node, recipe, done, lambda: progress(node, number, len(needed)))  # noqa: B023
            write_json(
                run / "index.json", before | {name: os.path.relpath(made.path, run) for name, made in done.items()}
            )
        _link_models(run, needed, done)
        _link_exports(run, nodes, done)
        _publish_report(run, needed, done)
        return done


@contextmanager
def _old_objects_left_alone() -> Iterator[None]:
    """Python's collector then looks at none of the libraries' million objects, which takes half a second a stage."""
    gc.collect()  # what a failed run left behind would lie frozen beside this one
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _read_index(run: Path, nodes: Sequence[Node]) -> dict[str, str]:
    """What an earlier attempt made for this very recipe, in the recipe's order."""
    try:
        found = read_json(run / "index.json")
    except ArtifactError:
        return {}
    paths = {node.name: os.path.relpath(node.directory, run) for node in nodes}
    return {name: path for name, path in paths.items() if found.get(name) == path}


def _needed(nodes: Sequence[Node], wanted: Callable[[Node], bool]) -> list[Node]:
    """The wanted nodes, all that they read, and the models.

    Raises: RecipeError, if none is wanted.
    """
    by_name = {node.name: node for node in nodes}
    stack = [node.name for node in nodes if wanted(node)]
    if not stack:
        raise RecipeError(f"no such stage in this recipe; stages: {', '.join(by_name)}.")
    keep = {node.name for node in nodes if isinstance(node.stage, ModelSpec)}
    while stack:
        name = stack.pop()
        if name not in keep:
            keep.add(name)
            stack += [*by_name[name].inputs.values(), *by_name[name].rounds]
    return [node for node in nodes if node.name in keep]


def _finish(
    node: Node,
    recipe: Recipe,
    done: Mapping[str, Artifact],
    progress: Callable[[], AbstractContextManager[Progress]],
) -> Artifact:
    with locked(node.directory, purpose=f"{node.type} {node.name}"):
        made = node.finished()
        if made is not None and not discard_damage(made):
            _discard_private(node.directory)
            if isinstance(node.stage, ExportStage):
                judge(node.stage, made.facts)
            return made
        (node.directory / MANIFEST).unlink(missing_ok=True)
        remove_leftovers(node.directory)
        clock = StageClock(node.directory, before=0.0 if made is None else made.seconds)
        with progress() as bar:
            facts = _make(node, recipe, done, clock, bar)
        made = seal(
            node.directory,
            stage=node.type,
            fingerprint=node.fingerprint,
            config=node.config,
            inputs={field: done[name].fingerprint for field, name in node.inputs.items()},
            facts=facts,
            seconds=clock.seconds,
            made_on=describe_hardware(recipe.execution),
        )
        _discard_private(node.directory)
        gc.collect()
        return made


def _discard_private(directory: Path) -> None:
    """Delete what only an unfinished stage needs."""
    (directory / CLOCK).unlink(missing_ok=True)
    for name in PRIVATE:
        shutil.rmtree(directory / name, ignore_errors=True)


def _make(
    node: Node, recipe: Recipe, done: Mapping[str, Artifact], clock: StageClock, bar: Progress
) -> Mapping[str, Any]:
    if isinstance(node.stage, ModelSpec):
        bar.start(1, unit="model")
        pruning = materialise(
            node.stage, node.directory, seed=recipe.seed, calibration=_calibration(node.stage, recipe)
        )
        path = node.directory / "model"
        found = {"parameters": parameter_count(path), "bytes": weight_bytes(path), "dtype": node.stage.dtype}
        return found | ({} if pruning is None else {"pruning": pruning.facts()})
    stage = importlib.import_module(f"eyas.stages.{node.type}")
    context = StageContext(
        recipe=recipe,
        directory=node.directory,
        inputs={field: done[name] for field, name in node.inputs.items()},
        clock=clock,
        progress=bar,
        rounds=tuple(done[name] for name in node.rounds),
    )
    facts: Mapping[str, Any] = stage.run(node.stage, context)
    return facts


def _calibration(spec: ModelSpec, recipe: Recipe) -> Calibration | None:
    """What a model's layers are measured on, where they are chosen by measuring."""
    if spec.prune is None:
        return None
    source = calibration_source(spec.prune, expand(recipe))
    examples = calibration_examples(spec.prune, source)
    return Calibration(examples, thinking=recipe.thinking, device=device_of(recipe.execution))


def discard_damage(artifact: Artifact) -> bool:
    """Delete files that do not match their checksum, so that the stage redoes just these; True if there were any."""
    damaged = damaged_files(artifact)
    for path in damaged:
        path.unlink(missing_ok=True)
    return bool(damaged)


def _link_models(run: Path, nodes: Sequence[Node], done: Mapping[str, Artifact]) -> None:
    """`models/ROLE` links to the weights behind each role of the evaluation."""
    by_name = {node.name: node for node in nodes}
    for node in nodes:
        if node.type != "evaluate" or node.name not in done:
            continue
        for field, name in by_name[node.name].inputs.items():
            if field.startswith("model:"):
                link = run / "models" / field.removeprefix("model:")
                link.parent.mkdir(exist_ok=True)
                with atomic_path(link) as draft:
                    draft.symlink_to(os.path.relpath(done[name].path / "model", link.parent), target_is_directory=True)


def _link_exports(run: Path, nodes: Sequence[Node], done: Mapping[str, Artifact]) -> None:
    """`exports/FILE` links to every file for a device; those of formats that the recipe has no more go.

    Where stages make files of one name, those of the later ones are called `STAGE-FILE`.
    """
    exports = [node for node in nodes if node.type == "export"]
    links: dict[str, Path] = {}
    for node in exports:
        if node.name in done:
            target = done[node.name].path / done[node.name].facts["file"]
            links[f"{node.name}-{target.name}" if target.name in links else target.name] = target
    folder = run / "exports"
    current = {os.path.relpath(node.directory, folder) for node in exports}
    for stale in folder.glob("*") if folder.is_dir() else ():
        if stale.is_symlink() and os.path.dirname(os.readlink(stale)) not in current:
            stale.unlink()
    for name, target in links.items():
        folder.mkdir(exist_ok=True)
        with atomic_path(folder / name) as draft:
            draft.symlink_to(os.path.relpath(target, folder), target_is_directory=target.is_dir())


def _publish_report(run: Path, nodes: Sequence[Node], done: Mapping[str, Artifact]) -> None:
    for node in nodes:
        if isinstance(node.stage, ReportStage) and node.name in done:
            for name in ("report.html", "summary.json"):
                with atomic_path(run / name) as draft:
                    shutil.copyfile(done[node.name].path / name, draft)


def read_summary(run: Path) -> dict[str, Any]:
    """The run's `summary.json`.

    Raises: ArtifactError, if the run has none yet.
    """
    summary: dict[str, Any] = read_json(run / "summary.json")
    return summary


def run_model(run: Path, role: str) -> Artifact:
    """The artifact that holds a run's model of this role, in `model/`.

    Raises: ArtifactError, listing the roles there are.
    """
    link = run / "models" / role
    if not link.is_dir():
        found = sorted(path.name for path in (run / "models").glob("*")) if (run / "models").is_dir() else []
        raise ArtifactError(f"{run}: no model {role!r}; found: {', '.join(found) or 'none, the run has not finished'}.")
    return open_artifact((link.parent / os.readlink(link)).parent)  # one link only: `model` itself may be another
