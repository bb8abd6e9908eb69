"""What made a model: the trainings back to another one, and the rollouts and scores that were made for them."""

from __future__ import annotations

from collections.abc import Sequence

from eyas.recipe.stages import ScoreStage, Stage, SynthesizeStage
from eyas.recipe.training import DistillStage, SftStage

Training = SftStage | DistillStage


def lineage(stages: Sequence[Stage], name: str, *, start: str | None) -> list[Stage]:
    """Everything between the model `start` (exclusive) and the stage `name` (inclusive), in the recipe's order.

    Each training comes with what was made for it. Back to the very beginning where `name` does not descend from
    `start`; empty, if `name` is no stage that trains.
    """
    return _with_what_they_read(stages, _trainings(stages, name, start=start))


def training_rounds(stages: Sequence[Stage], name: str, *, start: str) -> list[Stage]:
    """What a token or time match counts: the `lineage` from `start` to `name`.

    Where `name` does not descend from `start`, its own entry alone counts: one training, or all rounds of one
    distillation.
    """
    trainings = _trainings(stages, name, start=None if name == start else start)
    if trainings and trainings[-1].model != start:
        trainings = [made for made in trainings if made.name == name or made.name.startswith(f"{name}.")]
    return _with_what_they_read(stages, trainings)


def _trainings(stages: Sequence[Stage], name: str, *, start: str | None) -> list[Training]:
    """The last one first."""
    by_name = {stage.name: stage for stage in stages}
    found: list[Training] = []
    while name != start and isinstance(stage := by_name.get(name), SftStage | DistillStage):
        found.append(stage)
        name = stage.model
    return found


def _with_what_they_read(stages: Sequence[Stage], trainings: Sequence[Training]) -> list[Stage]:
    reads = {stage.name: stage.sequences for stage in stages if isinstance(stage, ScoreStage | SynthesizeStage)}
    wanted: set[str | None] = set()
    for made in trainings:
        wanted |= {made.name, made.curriculum.rollouts, made.curriculum.pseudo_answers}
        source = made.sequences if isinstance(made, SftStage) else made.scores
        while source is not None:
            wanted.add(source)
            source = reads.get(source)
    return [stage for stage in stages if stage.name in wanted]
