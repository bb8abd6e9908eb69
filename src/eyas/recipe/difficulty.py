"""Pass rates in a recipe: `curriculum.difficulty` unfolded to shared rollout stages, and whether rates fit a stage."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from eyas.errors import RecipeError
from eyas.recipe.curriculum import DifficultySpec
from eyas.recipe.stages import RolloutStage, ScoreStage, Stage, SynthesizeStage
from eyas.recipe.training import DistillStage, SftStage


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
    """Every curriculum that follows pass rates has some: by rollouts of a model, graded or compared, on its prompts.

    References are checked before.

    Raises: RecipeError, with what to change.
    """
    by_name = {stage.name: stage for stage in stages}
    for stage in stages:
        if isinstance(stage, SftStage | DistillStage) and stage.curriculum.needs_pass_rates:
            problem = _problem(stage, by_name)
            if problem is not None:
                raise RecipeError(f"{where}: stage {stage.name!r} {problem}")


def _problem(stage: SftStage | DistillStage, by_name: Mapping[str, Stage]) -> str | None:
    curriculum, source = stage.curriculum, _source(stage, by_name)
    measured = source if curriculum.rollouts is None else by_name.get(curriculum.rollouts)
    if isinstance(measured, SynthesizeStage):
        return (
            f"takes pass rates from {measured.name!r}, which keeps one answer a prompt and no wrong one. Give "
            f"`curriculum.difficulty: {{model: MODEL}}`, or `curriculum.rollouts: {measured.sequences}`."
        )
    if not isinstance(measured, RolloutStage):
        return None
    if measured.prefix == "label" or (curriculum.rollouts is None and measured.prefix == "teacher"):
        whose = "labels, not rollouts" if measured.prefix == "label" else "the teacher's"
        return (
            f"takes pass rates from {measured.name!r}, whose completions are {whose}. Say what is difficult to whom: "
            "`curriculum.difficulty: {model: MODEL}`, or `curriculum.rollouts`."
        )
    if curriculum.weight == "frontier" and measured.samples_per_prompt == 1:
        return (
            f"weighs by p(1-p), but {measured.name!r} has one completion a prompt, and p(1-p) is the same for one that "
            "is right and one that is wrong. Give it `samples_per_prompt: 8`, or `curriculum.difficulty`."
        )
    return _unmatched(stage, measured, source, by_name.get(curriculum.pseudo_answers or ""))


def _unmatched(
    stage: SftStage | DistillStage, measured: RolloutStage, source: Stage | None, pseudo: Stage | None
) -> str | None:
    """Why no trained example would have a pass rate."""
    trained = _trained_prompts(stage, source)
    if trained is not None and measured.data == stage.data and not _splits(measured.prompts) & _splits(trained):
        return (
            f"trains on {trained} prompts, but its curriculum's pass rates, from {measured.name!r}, are of "
            f"{measured.prompts} ones. Give that one `prompts: {trained}` or `all`."
        )
    if measured.prompts == "unlabelled" and stage.curriculum.pseudo_answers is None:
        return (
            f"wants pass rates of unlabelled prompts (from {measured.name!r}), which nothing grades. Give "
            "`curriculum.pseudo_answers`, a stage with the teacher's answers, or measure `prompts: all`."
        )
    if (
        isinstance(pseudo, RolloutStage)
        and measured.prompts == "unlabelled"
        and pseudo.data == measured.data
        and "unlabelled" not in _splits(pseudo.prompts)
    ):
        return (
            f"wants pass rates of unlabelled prompts (from {measured.name!r}), but {pseudo.name!r}, its "
            f"`pseudo_answers`, answers {pseudo.prompts} ones. Give that one `prompts: unlabelled` or `all`."
        )
    return None


def _source(stage: SftStage | DistillStage, by_name: Mapping[str, Stage]) -> Stage | None:
    """The stage whose sequences are trained on; None for the labels themselves."""
    if isinstance(stage, SftStage):
        return by_name.get(stage.sequences or "")
    scores = by_name.get(stage.scores or "")
    return by_name.get(scores.sequences) if isinstance(scores, ScoreStage) else None


def _trained_prompts(stage: SftStage | DistillStage, source: Stage | None) -> str | None:
    """The split that a stage's sequences come from, None where it is not known."""
    if source is None:
        return "labelled" if isinstance(stage, SftStage) else None
    if not isinstance(source, RolloutStage | SynthesizeStage):
        return None
    return "labelled" if isinstance(source, RolloutStage) and source.prefix == "label" else source.prompts


def _splits(prompts: str) -> set[str]:
    return {"labelled", "unlabelled"} if prompts == "all" else {prompts}
