"""Where the examples come from that depth pruning measures layers on."""

from __future__ import annotations

from collections.abc import Sequence

from eyas.errors import RecipeError
from eyas.recipe.models import PruneSpec
from eyas.recipe.sources import DataSource
from eyas.recipe.stages import PrepareStage, Stage


def calibration_source(prune: PruneSpec, stages: Sequence[Stage]) -> DataSource:
    """The source that `prune` names, else that of the first prepare stage.

    Raises: RecipeError, if there is neither.
    """
    if prune.data is not None:
        return prune.data
    for stage in stages:
        if isinstance(stage, PrepareStage):
            return stage.source
    raise RecipeError(
        f"`prune: {{by: {prune.by}}}` has nothing to measure on: the recipe has no prepare stage. Give "
        "`prune: {by: …, data: {type: file, path: …}}`, or any other source of docs/data.md."
    )
