"""Pass rates in a recipe: `curriculum.difficulty` unfolded to shared rollout stages, and whether rates fit a stage."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from eyas.errors import RecipeError
from eyas.recipe.curriculum import DifficultySpec
from eyas.recipe.stages import DistillStage, RolloutStage, ScoreStage, SftStage, Stage


def with_difficulty(stages: Sequence[Stage]) -> list[Stage]:
    """The stages with, before the first that wants it, a rollout stage per `difficulty`, called `MODEL.difficulty`.

    Stages that name the same model, data and settings read the same one; others of that model are called
    `MODEL.difficulty.2` and so on.
    """
    made: list[Stage] = []
    names: dict[tuple[str, str], str] = {}
    for stage in stages:
        if not isinstance(stage, SftStage | DistillStage) or stage.curriculum.difficulty is None:
            made.append(stage)
            continue
        difficulty = stage.curriculum.difficulty
        key = stage.data, difficulty.model_dump_json()
        if key not in names:
            names[key] = _free_name(difficulty.model, taken=names.values())
            made.append(_rollout(difficulty, name=names[key], data=stage.data))
        curriculum = stage.curriculum.model_copy(update={"rollouts": names[key], "difficulty": None})
        made.append(stage.model_copy(update={"curriculum": curriculum}))
    return made


def _free_name(model: str, *, taken: Collection[str]) -> str:
    name, number = f"{model}.difficulty", 2
    while name in taken:
        name, number = f"{model}.difficulty.{number}", number + 1
    return name


def _rollout(difficulty: DifficultySpec, *, name: str, data: str) -> RolloutStage:
    prefix = "teacher" if difficulty.model == "teacher" else "student"
    return RolloutStage.model_validate(
        {"type": "rollout", "name": name, "data": data, "prefix": prefix} | difficulty.model_dump()
    )


def check_pass_rates(stages: Sequence[Stage], *, where: str = "recipe") -> None:
    """No curriculum takes its pass rates from rollouts on other prompts alone; references are checked before.

    Raises: RecipeError, with what to change.
    """
    by_name = {stage.name: stage for stage in stages}
    for stage in stages:
        if not isinstance(stage, SftStage | DistillStage) or not stage.curriculum.needs_pass_rates:
            continue
        measured, trained = by_name.get(stage.curriculum.rollouts or ""), _trained_prompts(stage, by_name)
        if not isinstance(measured, RolloutStage) or trained is None:
            continue
        if measured.data == stage.data and not _splits(measured.prompts) & _splits(trained):
            raise RecipeError(
                f"{where}: stage {stage.name!r} trains on {trained} prompts, but its curriculum's pass rates, from "
                f"{measured.name!r}, are of {measured.prompts} ones. Give that one `prompts: {trained}` or `all`."
            )


def _trained_prompts(stage: SftStage | DistillStage, by_name: Mapping[str, Stage]) -> str | None:
    """The split that a stage's sequences come from, None where it is not known."""
    source: str | None
    if isinstance(stage, SftStage):
        if stage.sequences is None:
            return "labelled"
        source = stage.sequences
    else:
        scores = by_name.get(stage.scores or "")
        source = scores.sequences if isinstance(scores, ScoreStage) else None
    rollout = by_name.get(source or "")
    if not isinstance(rollout, RolloutStage):
        return None
    return "labelled" if rollout.prefix == "label" else rollout.prompts


def _splits(prompts: str) -> set[str]:
    return {"labelled", "unlabelled"} if prompts == "all" else {prompts}
