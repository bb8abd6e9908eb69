"""`curriculum.difficulty` unfolded: one rollout stage for all stages that want the same pass rates."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from eyas.recipe.curriculum import DifficultySpec
from eyas.recipe.stages import DistillStage, RolloutStage, SftStage, Stage


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
