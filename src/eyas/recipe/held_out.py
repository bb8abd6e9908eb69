"""Which evaluation sets a recipe has, so that every prepare stage keeps its training prompts clear of all of them."""

from __future__ import annotations

from collections.abc import Sequence

from eyas.recipe.sources import HeldOut
from eyas.recipe.stages import PrepareStage, Stage


def held_out_of(stage: PrepareStage) -> tuple[HeldOut, ...]:
    """The stage's own evaluation sets: test, validation and, where there is one, off-task."""
    own = [
        HeldOut(source=stage.source, split="test", count=stage.test),
        HeldOut(source=stage.source, split="validation", count=stage.validation),
    ]
    if stage.off_task is not None:
        own.append(HeldOut(source=stage.off_task, split="test", count=stage.off_task_count))
    return tuple(own)


def with_held_out(stages: Sequence[Stage]) -> list[Stage]:
    """The stages, each prepare stage among them told the evaluation sets of the others."""
    prepares = [stage for stage in stages if isinstance(stage, PrepareStage)]
    made: list[Stage] = []
    for stage in stages:
        if isinstance(stage, PrepareStage):
            own = held_out_of(stage)
            found = [item for other in prepares if other is not stage for item in held_out_of(other)]
            others = [item for at, item in enumerate(found) if item not in own and item not in found[:at]]
            stage = stage.model_copy(update={"held_out_elsewhere": tuple(others)})
        made.append(stage)
    return made
