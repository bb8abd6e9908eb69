"""Which files an export stage makes and a bench stage measures, worked out from the recipe's other stages."""

from __future__ import annotations

from collections.abc import Sequence

from eyas.errors import RecipeError
from eyas.recipe.edge import FIXED_SHAPES, NOT_RUN_HERE, SHAPE, BenchStage, ExportStage
from eyas.recipe.stages import EvaluateStage, Stage


def expand_export(stage: ExportStage, stages: Sequence[Stage]) -> list[ExportStage]:
    """One stage per role and format, without a shape where the format has none: so another one does not change it.

    Raises: RecipeError, if the evaluation, or a role in it, is not in the recipe, or its answers are not greedy ones.
    """
    evaluations = {item.name: item for item in stages if isinstance(item, EvaluateStage)}
    evaluation = evaluations.get(stage.evaluation)
    if evaluation is None:
        known = ", ".join(evaluations) or "none"
        raise RecipeError(
            f"stage {stage.name!r} exports the models of `evaluation: {stage.evaluation}`, which is no evaluate "
            f"stage of this recipe; evaluate stages: {known}."
        )
    if evaluation.sampling.temperature != 0:
        raise RecipeError(
            f"stage {stage.name!r} compares files with the answers of {evaluation.name!r}, which are drawn at "
            f"temperature {evaluation.sampling.temperature:g}. Give it `sampling.temperature: 0`, or add an evaluate "
            "stage of its own name that has it."
        )
    for role in stage.models:
        if role not in evaluation.models:
            raise RecipeError(
                f"stage {stage.name!r} exports {role!r}, expected a model that {evaluation.name!r} evaluates: "
                f"{', '.join(evaluation.models)}."
            )
    shapeless = {field: ExportStage.model_fields[field].default for field in SHAPE}
    return [
        stage.model_copy(
            update={
                "name": f"{stage.name}.{role}.{format_}", "models": (role,), "formats": (format_,),
                "evaluation": f"{evaluation.name}.{role}", "model": evaluation.models[role], "data": evaluation.data,
                **({} if format_ in FIXED_SHAPES else shapeless),
            }
        )
        for role in stage.models
        for format_ in stage.formats
    ]  # fmt: skip


def expand_bench(stage: BenchStage, stages: Sequence[Stage]) -> BenchStage:
    """The stage with the files of its export stages.

    Raises: RecipeError, if one of them is no export stage, or none of their formats runs here.
    """
    exports = {item.name: item for item in stages if isinstance(item, ExportStage)}
    for name in stage.exports:
        if name not in exports:
            raise RecipeError(
                f"stage {stage.name!r} measures the files of {name!r}, which is no export stage of this recipe; "
                f"export stages: {', '.join(exports) or 'none'}."
            )
    files = tuple(f"{name}.{role}.{format_}" for name in stage.exports for role in exports[name].models
                  for format_ in exports[name].formats if format_ not in NOT_RUN_HERE)  # fmt: skip
    if not files:
        raise RecipeError(
            f"stage {stage.name!r} has nothing to measure: no runtime here runs {', '.join(NOT_RUN_HERE)}. Take it out "
            f"or add a format to {', '.join(stage.exports)}."
        )
    return stage.model_copy(update={"files": files})
