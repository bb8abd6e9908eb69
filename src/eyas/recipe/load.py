"""From YAML to a checked, expanded recipe: reading, validation, expansion, type check."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from eyas.errors import RecipeError
from eyas.recipe.ablation import AblationSpec
from eyas.recipe.calibration import calibration_source
from eyas.recipe.difficulty import check_pass_rates, with_difficulty
from eyas.recipe.edge import BenchStage, ExportStage
from eyas.recipe.explain import explain
from eyas.recipe.exports import expand_bench, expand_export
from eyas.recipe.held_out import with_held_out
from eyas.recipe.models import Model
from eyas.recipe.override import limited, override, parse_yaml
from eyas.recipe.specs import RESERVED, ExecutionSpec, Spec, Thinking, ThinkingSpec
from eyas.recipe.stage import Kind, RolloutSpec
from eyas.recipe.stages import EvaluateStage, RolloutStage, ScoreStage, Stage, SynthesizeStage
from eyas.recipe.training import DistillStage, SftStage

DERIVED = ("held_out_elsewhere", "divergence_scores", "files")
"""Fields of stages that `expand` sets, whatever they were."""


class Recipe(Spec):
    """What `eyas run` does: a student, a teacher and an ordered list of stages."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """The run's directory is called this."""
    description: str = ""
    """What the run is for; heads its report."""
    seed: int = 0
    """Seeds the training problems, random weights, sampling and the order of training; never the held-out sets."""
    student: Model
    """The model that is trained."""
    teacher: Model | None = None
    """Needed by any stage that refers to `teacher`."""
    thinking: Thinking = ThinkingSpec()
    """`plain`, `qwen3`, `pangu` or a declared format."""
    stages: tuple[Stage, ...] = Field(min_length=1)
    """What is done, in order; a stage may read any stage before it."""
    execution: ExecutionSpec = ExecutionSpec()
    """How the work is cut for this machine."""
    ablation: AblationSpec | None = None
    """Variants and claims for `eyas ablate`; nothing to `eyas run`."""


def load_recipe(path: Path, *, overrides: Sequence[str] = (), limit: int | None = None) -> Recipe:
    """Read, override, validate; the stages are as written, see `expand` for what runs.

    Raises: RecipeError, naming the file, the key and the nearest valid name.
    """
    data, where = read_recipe(path, overrides=overrides)
    return recipe_from(data, where=where, limit=limit)


def read_recipe(path: Path, *, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], str]:
    """What a recipe file and `--set` say, not yet validated, and what an error calls it.

    Raises: RecipeError, if it cannot be read, is no mapping, or a setting has no place in it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror}). Give the path of a recipe file.") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: expected UTF-8, found other bytes ({error.reason}). Save it as UTF-8.") from error
    data = parse_yaml(text, where=str(path))
    if not isinstance(data, dict):
        raise RecipeError(
            f"{path}: expected a mapping with `name`, `student` and `stages`, found {type(data).__name__}."
        )
    for setting in overrides:
        override(data, setting)
    return data, " ".join([str(path), *(f"--set {setting}" for setting in overrides)])


def recipe_from(data: dict[str, Any], *, where: str, limit: int | None) -> Recipe:
    """`parse_recipe`, then the smoke run of it where there is a limit."""
    recipe = parse_recipe(data, where=where)
    if limit is not None:
        recipe = parse_recipe(limited(recipe.model_dump(by_alias=True, exclude_unset=True), limit), where=where)
    return recipe


def parse_recipe(data: dict[str, Any], *, where: str = "recipe") -> Recipe:
    """Validate a mapping as a recipe and check that its stages refer to each other legally."""
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        raise RecipeError("\n".join([f"{where}:", *explain(error, Recipe)])) from None
    _check_derived(recipe, where=where)
    try:
        stages = expand(recipe)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from None
    check_references(stages, has_teacher=recipe.teacher is not None, where=where)
    check_losses(stages, where=where)
    check_pass_rates(stages, where=where)
    for spec in (recipe.student, recipe.teacher):
        if spec is not None and spec.prune is not None:
            calibration_source(spec.prune, stages)
    return recipe


def _check_derived(recipe: Recipe, *, where: str) -> None:
    """Raises: RecipeError, if a stage is written with what `expand` works out and would overwrite."""
    for stage in recipe.stages:
        for field in (*DERIVED, *(("model", "data") if isinstance(stage, ExportStage) else ())):
            if getattr(stage, field, None):
                raise RecipeError(
                    f"{where}: stage {stage.name!r}: `{field}` is worked out from the other stages and cannot be set. "
                    "Take it out."
                )


def expand(recipe: Recipe) -> tuple[Stage, ...]:
    """The stages that run, in order: `distill`, `evaluate` and `difficulty` unfolded into what they are made of."""
    stages: list[Stage] = []
    for stage in recipe.stages:
        if isinstance(stage, DistillStage) and stage.scores is None:
            stages += _expand_distill(stage)
        elif isinstance(stage, SynthesizeStage) and stage.sequences is None:
            stages += _expand_synthesize(stage, prefix=descent(recipe, stage.model))
        elif isinstance(stage, EvaluateStage):
            stages += _expand_evaluate(stage, has_teacher=recipe.teacher is not None)
        elif isinstance(stage, ExportStage):
            stages += expand_export(stage, recipe.stages)
        elif isinstance(stage, BenchStage):
            stages.append(expand_bench(stage, recipe.stages))
        else:
            stages.append(stage)
    return tuple(with_difficulty(with_held_out(stages)))


def _expand_distill(stage: DistillStage) -> list[Stage]:
    made: list[Stage] = []
    model = stage.model
    for number in range(1, stage.rounds + 1):
        name = stage.name if number == stage.rounds else f"{stage.name}.{number}"
        sampler = "teacher" if stage.prefix == "teacher" else model
        rollout = RolloutStage(
            type="rollout", name=f"{stage.name}.{number}.rollout", model=sampler, data=stage.data, prefix=stage.prefix,
            **stage.rollout.model_dump() | ({"prompts": "labelled"} if stage.prefix == "label" else {}),
        )  # fmt: skip
        unconditional = stage.score.unconditional or stage.selection.delta_ifd is not None
        score = ScoreStage(
            type="score", name=f"{stage.name}.{number}.score", sequences=rollout.name,
            **stage.score.model_dump() | {"unconditional": unconditional},
        )  # fmt: skip
        made += [
            rollout,
            score,
            stage.model_copy(update={"name": name, "model": model, "rounds": 1, "scores": score.name}),
        ]
        model = name
    return made


def descent(recipe: Recipe, name: str) -> Literal["teacher", "student"]:
    """Whose weights a model goes back to."""
    models = {stage.name: stage.model for stage in recipe.stages if isinstance(stage, SftStage | DistillStage)}
    while name in models:
        name = models.pop(name)  # so that one that names itself, an error found later, ends here
    return "teacher" if name == "teacher" else "student"


def _expand_synthesize(stage: SynthesizeStage, *, prefix: Literal["teacher", "student"]) -> list[Stage]:
    rollout = RolloutStage(
        type="rollout", name=f"{stage.name}.rollout", model=stage.model, data=stage.data, prefix=prefix,
        **{field: getattr(stage, field) for field in RolloutSpec.model_fields},
    )  # fmt: skip
    return [rollout, stage.model_copy(update={"sequences": rollout.name})]


def _expand_evaluate(stage: EvaluateStage, *, has_teacher: bool) -> list[Stage]:
    made: list[Stage] = []
    scores: dict[str, str] = {}
    if stage.divergence_prompts and has_teacher:
        samplers: dict[Literal["teacher", "student"], str] = {"teacher": "teacher"}
        if "sft" in stage.models:
            samplers["student"] = stage.models["sft"]
        for prefix, model in samplers.items():
            sampling = stage.sampling.model_copy(update={"temperature": 1.0})
            rollout = RolloutStage(
                type="rollout", name=f"{stage.name}.{prefix}-prefixes", model=model, data=stage.data,
                prompts="validation", prefix=prefix, count=stage.divergence_prompts, modes=stage.modes,
                sampling=sampling,
            )  # fmt: skip
            scores[prefix] = f"{stage.name}.{prefix}-scores"
            made += [rollout, ScoreStage(type="score", name=scores[prefix], sequences=rollout.name)]
    for role, model in stage.models.items():
        update = {"name": f"{stage.name}.{role}", "models": {role: model}, "divergence_scores": scores}
        made.append(stage.model_copy(update=update))
    return made


def check_references(stages: Sequence[Stage], *, has_teacher: bool, where: str = "recipe") -> None:
    """Every reference names an earlier stage of the right kind.

    Raises: RecipeError, with the nearest legal name.
    """
    known: dict[str, Kind] = {"student": "model"}
    if has_teacher:
        known["teacher"] = "model"
    for stage in stages:
        if stage.name in known or stage.name in RESERVED:
            raise RecipeError(f"{where}: two stages are called {stage.name!r}; give each its own `name`.")
        for field, (name, kind) in stage.references().items():
            if known.get(name) != kind:
                legal = [key for key, value in known.items() if value == kind]
                near = difflib.get_close_matches(name, legal, n=1, cutoff=0.4)
                hint = f"did you mean {near[0]!r}?" if near else f"possible here: {', '.join(legal) or 'none'}."
                found = f"which makes {known[name]}" if name in known else "which no earlier stage is called"
                raise RecipeError(
                    f"{where}: stage {stage.name!r} wants {kind} in `{field}`, found {name!r}, {found}; {hint}"
                )
        known[stage.name] = stage.makes
    _check_delta_ifd(stages, where=where)


def _check_delta_ifd(stages: Sequence[Stage], *, where: str) -> None:
    """A window for delta-IFD needs scores that hold the teacher's perplexities without the prompt."""
    lacking = {stage.name for stage in stages if isinstance(stage, ScoreStage) and not stage.unconditional}
    for stage in stages:
        if isinstance(stage, DistillStage) and stage.selection.delta_ifd is not None and stage.scores in lacking:
            raise RecipeError(
                f"{where}: stage {stage.name!r} has `selection.delta_ifd`, but its scores {stage.scores!r} do not say "
                "how likely the teacher finds completions without their prompt. Add `unconditional: true` to stage "
                f"{stage.scores!r}."
            )


def check_losses(stages: Sequence[Stage], *, where: str = "recipe") -> None:
    """Every distillation's loss can be computed on the scores that it is given; references are checked before.

    Raises: RecipeError, with what to change.
    """
    scores = {stage.name: stage for stage in stages if isinstance(stage, ScoreStage)}
    rollouts = {stage.name: stage for stage in stages if isinstance(stage, RolloutStage)}
    for stage in stages:
        if isinstance(stage, SynthesizeStage) and stage.sequences in rollouts:
            rollouts[stage.name] = rollouts[stage.sequences]
    for stage in stages:
        if isinstance(stage, DistillStage) and stage.scores is not None:
            score = scores[stage.scores]
            rollout = rollouts[score.sequences]
            problem = stage.loss.problem_with(
                target=score.target,
                prefix=rollout.prefix,
                temperature=score.temperature,
                top_k=score.top_k,
                mass=score.mass,
                sampling=rollout.sampling,
            )
            if problem is not None:
                raise RecipeError(f"{where}: stage {stage.name!r}: {problem}.")
