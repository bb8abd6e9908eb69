"""From YAML to a checked, expanded recipe: reading, `--set`, `--limit`, expansion, type check."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from eyas.errors import RecipeError
from eyas.recipe.specs import ExecutionSpec, Model, Spec, Thinking, ThinkingSpec
from eyas.recipe.stages import DistillStage, EvaluateStage, Kind, RolloutStage, ScoreStage, SftStage, Stage

RESERVED = ("student", "teacher")


class Recipe(Spec):
    """What `eyas run` does: a student, a teacher and an ordered list of stages."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """The run's directory is called this."""
    description: str = ""
    seed: int = 0
    student: Model
    teacher: Model | None = None
    """Needed by any stage that refers to `teacher`."""
    thinking: Thinking = ThinkingSpec()
    """`plain`, `qwen3`, `pangu` or a declared format."""
    stages: tuple[Stage, ...] = Field(min_length=1)
    execution: ExecutionSpec = ExecutionSpec()


def load_recipe(path: Path, *, overrides: Sequence[str] = (), limit: int | None = None) -> Recipe:
    """Read, override, validate; the stages are as written, see `expand` for what runs.

    Raises: RecipeError, naming the file, the key and the nearest valid name.
    """
    try:
        data = yaml.safe_load(path.read_text())
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror}). Give the path of a recipe file.") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise RecipeError(
            f"{path}: expected a mapping with `name`, `student` and `stages`, found {type(data).__name__}."
        )
    for override in overrides:
        _set(data, override)
    recipe = parse_recipe(data, where=str(path))
    if limit is not None:
        recipe = parse_recipe(_limited(recipe.model_dump(by_alias=True, exclude_unset=True), limit), where=str(path))
    return recipe


def parse_recipe(data: dict[str, Any], *, where: str = "recipe") -> Recipe:
    """Validate a mapping as a recipe and check that its stages refer to each other legally."""
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        raise RecipeError("\n".join([f"{where}:", *_explain(error)])) from None
    check_references(expand(recipe), has_teacher=recipe.teacher is not None, where=where)
    return recipe


def _explain(error: ValidationError) -> list[str]:
    lines = []
    for item in error.errors():
        at = ".".join(str(part) for part in item["loc"]) or "recipe"
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = f"unknown key {item['loc'][-1]!r}"
            near = difflib.get_close_matches(str(item["loc"][-1]), sorted(_known_keys(Recipe)), n=1)
            message += f"; did you mean {near[0]!r}?" if near else "; see the recipe reference in README.md"
        else:
            message += "" if item["type"] == "missing" else f" (found {str(item.get('input'))[:80]!r})"
        lines.append(f"  {at}: {message}")
    return lines


def _known_keys(model: type[Spec], seen: set[type] | None = None) -> set[str]:
    seen = set() if seen is None else seen
    keys: set[str] = set()
    stack: list[Any] = [model]
    while stack:
        kind = stack.pop()
        if isinstance(kind, type) and issubclass(kind, Spec):
            if kind not in seen:
                seen.add(kind)
                for name, info in kind.model_fields.items():
                    keys.add(info.alias or name)
                    stack.append(info.annotation)
        else:
            stack.extend(getattr(kind, "__args__", ()))
    return keys


def _set(data: dict[str, Any], override: str) -> None:
    """Apply `dotted.path=value` in place; a list of stages is addressed by stage name or type."""
    path, equals, text = override.partition("=")
    if not equals:
        raise RecipeError(f"--set {override}: expected key=value, for instance seed=1.")
    *parents, last = path.split(".")
    node: Any = data
    for part in parents:
        node = _child(node, part, override)
    if isinstance(node, list):
        raise RecipeError(f"--set {override}: {last!r} names a whole stage; add the field to change.")
    node[last] = yaml.safe_load(text)


def _child(node: Any, part: str, override: str) -> Any:
    if isinstance(node, list):
        names = [item.get("name") or item.get("type") for item in node]
        if part not in names:
            near = difflib.get_close_matches(part, [str(name) for name in names], n=1)
            raise RecipeError(
                f"--set {override}: no stage {part!r}; "
                + (f"did you mean {near[0]!r}?" if near else f"stages: {names}")
            )
        return node[names.index(part)]
    if isinstance(node, dict):
        return node.setdefault(part, {})
    raise RecipeError(f"--set {override}: {part!r} is inside a plain value.")


def _limited(data: dict[str, Any], limit: int) -> dict[str, Any]:
    """The recipe as a smoke run of its own name: `limit` examples a split and optimiser steps a training stage."""
    if limit < 2:
        raise RecipeError(f"--limit {limit}: at least 2 examples are needed.")
    data["name"] = f"{data['name']}-limit{limit}"
    for stage in data["stages"]:
        if stage["type"] == "prepare":
            defaults = {"labelled": limit, "unlabelled": 0, "validation": limit, "test": limit, "off_task_count": limit}
            stage.update({key: min(stage.get(key, default), limit) for key, default in defaults.items()})
        if stage["type"] in ("sft", "distill"):
            training = {
                key: value for key, value in stage.get("training", {}).items() if key not in ("epochs", "steps")
            }
            matched = stage.get("match_tokens") or stage.get("match_seconds")
            stage["training"] = {**training, "batch_size": min(training.get("batch_size", limit), limit)} | (
                {} if matched else {"steps": limit}
            )
        if stage["type"] == "evaluate":
            stage["divergence_prompts"] = min(stage.get("divergence_prompts", limit), limit)
    return data


def expand(recipe: Recipe) -> tuple[Stage, ...]:
    """The stages that run, in order: `distill` and `evaluate` unfolded into what they are made of."""
    stages: list[Stage] = []
    for stage in recipe.stages:
        if isinstance(stage, DistillStage) and stage.scores is None:
            stages += _expand_distill(stage)
        elif isinstance(stage, EvaluateStage):
            stages += _expand_evaluate(stage, has_teacher=recipe.teacher is not None)
        else:
            stages.append(stage)
    return tuple(stages)


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
        score = ScoreStage(
            type="score", name=f"{stage.name}.{number}.score", sequences=rollout.name, **stage.score.model_dump()
        )
        made += [
            rollout,
            score,
            stage.model_copy(update={"name": name, "model": model, "rounds": 1, "scores": score.name}),
        ]
        model = name
    return made


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


def training_rounds(stages: Sequence[Stage], name: str) -> list[Stage]:
    """The stages of a distill entry that a token or time match counts: its rollouts, scores and trainings."""
    by_name = {stage.name: stage for stage in stages}
    found: list[Stage] = []
    stage = by_name.get(name)
    while isinstance(stage, DistillStage) and stage.scores is not None:
        score = by_name[stage.scores]
        found += [stage, score]
        if isinstance(score, ScoreStage):
            found.append(by_name[score.sequences])
        prefix = name if stage.model.startswith(f"{name}.") else None
        stage = by_name.get(stage.model) if prefix else None
    return found if found else [stage] if isinstance(stage, SftStage) else []
