"""The stages that train: supervised fine-tuning and distillation."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from eyas.recipe.curriculum import CurriculumSpec
from eyas.recipe.loss import LossSpec
from eyas.recipe.score import ScoreSpec
from eyas.recipe.selection import DistillSelectionSpec, SelectionSpec
from eyas.recipe.specs import ModeMix, SamplingSpec, TrainingSpec
from eyas.recipe.stage import Kind, RolloutSpec, StageSpec


class SftStage(StageSpec):
    """Supervised fine-tuning: cross-entropy on completions of labelled examples, or of given sequences."""

    makes: ClassVar[Kind] = "model"
    version: ClassVar[int] = 4
    type: Literal["sft"]
    model: str = "student"
    """`student`, or the stage whose weights to start from."""
    data: str = "prepare"
    """The prepare stage whose labelled and validation examples are used."""
    sequences: str | None = None
    """Rollout stage whose completions are trained on instead of the labels (seqkd)."""
    selection: SelectionSpec = SelectionSpec()
    """Which of `sequences` are trained on; by default all that were not cut at their length limit."""
    modes: ModeMix = Field(default={"reasoning": 1.0}, min_length=1)
    """Share of each mode, drawn over the labelled examples; {reasoning: 3, fast: 1} is the paper's second stage."""
    training: TrainingSpec = TrainingSpec()
    """The optimiser's view: sequences per step, length, learning rate."""
    match_tokens: str | None = None
    """Train for as many tokens (prompt and completion, forward and backward) as all training from `model` to this
    stage; where this stage does not descend from `model`, as its own."""
    match_seconds: str | None = None
    """`match_tokens` in seconds: distillation with its rollouts and scoring, at this machine's measured speed."""
    select: Literal["last", "best"] = "last"
    """`best`: of the checkpoints at `selections` equal intervals the one most accurate on validation."""
    selections: int = Field(default=5, ge=1)
    """How many checkpoints `best` chooses from; each costs a greedy evaluation on the validation examples."""
    sampling: SamplingSpec = SamplingSpec(temperature=0.0)
    """How the validation answers of `select: best` are drawn; give it the evaluation's `max_completion_tokens`."""
    curriculum: CurriculumSpec = CurriculumSpec()
    """Order and weight of the examples; by default shuffled, all alike."""

    @model_validator(mode="after")
    def _one_budget(self) -> SftStage:
        given = [self.match_tokens, self.match_seconds, self.training.epochs, self.training.steps]
        if sum(value is not None for value in given) > 1:
            raise ValueError("give one of `match_tokens`, `match_seconds`, `training.epochs` and `training.steps`")
        if self.curriculum.signal == "teacher_nll":
            raise ValueError("`curriculum.signal: teacher_nll` needs teacher scores, which only `distill` has")
        if self.curriculum.needs_pass_rates and self.curriculum.rollouts is None and self.curriculum.difficulty is None:
            raise ValueError(
                "a curriculum in sft needs `curriculum.difficulty`, which measures pass rates, or "
                "`curriculum.rollouts`, the stage that measured them"
            )
        if self.sequences is None and self.selection != SelectionSpec():
            raise ValueError("`selection` chooses among `sequences`; labels are trained on as they are, so drop it")
        return self

    def references(self) -> dict[str, tuple[str, Kind]]:
        found: dict[str, tuple[str, Kind]] = {"model": (self.model, "model"), "data": (self.data, "examples")}
        if self.sequences is not None:
            found["sequences"] = (self.sequences, "sequences")
        if match := self.match_tokens or self.match_seconds:
            found["match"] = (match, "model")
        return found | self.curriculum.references()


class DistillRolloutSpec(RolloutSpec):
    """The rollout inside a distill stage: never on validation prompts."""

    prompts: Literal["labelled", "unlabelled", "all"] = "unlabelled"
    """Which split's prompts; `all` is labelled and unlabelled. With prefix `label` always the labelled ones."""


class DistillStage(StageSpec):
    """Offline on-policy distillation: rollout, score, train; `rounds` times, each from the last weights.

    A recipe writes one such stage; `expand` (recipe/load.py) makes it into rollout, score and distill
    stages named `NAME.1.rollout`, `NAME.1.score`, `NAME.1` and so on, the last one `NAME`. With `scores`
    given it trains on those and makes none of its own.
    """

    makes: ClassVar[Kind] = "model"
    version: ClassVar[int] = 4
    type: Literal["distill"]
    model: str = "student"
    """`student`, or the stage whose weights to start from."""
    data: str = "prepare"
    """The prepare stage whose prompts are used."""
    prefix: Literal["student", "teacher", "label"] = "student"
    """Whose completions are distilled on; `student` is on-policy, refreshed every round."""
    rounds: int = Field(default=1, ge=1)
    """2 is one refresh of the rollouts; more did not help in arXiv 2605.05940."""
    rollout: DistillRolloutSpec = DistillRolloutSpec()
    """What every round samples."""
    score: ScoreSpec = ScoreSpec()
    """What is kept of the teacher's distribution."""
    scores: str | None = None
    """Score stage to train on, instead of `prefix`, `rounds`, `rollout` and `score`."""
    selection: DistillSelectionSpec = DistillSelectionSpec()
    """Which of the scored sequences are trained on; by default all."""
    modes: ModeMix | None = None
    """Share of each mode among the trained sequences; by default as sampled."""
    loss: LossSpec = LossSpec()
    """What is minimised; by default the paper's loss with a tail bucket."""
    training: TrainingSpec = TrainingSpec()
    """The optimiser's view of every round: sequences per step, length, learning rate."""
    curriculum: CurriculumSpec = CurriculumSpec()
    """Order and weight of the examples; by default shuffled, all alike."""

    @model_validator(mode="after")
    def _labels_for_ce(self) -> DistillStage:
        if self.loss.ce_on == "label" and self.scores is None and self.prefix != "label":
            raise ValueError(f"`loss.ce_on: label` needs `prefix: label`: {self.prefix} prefixes are no labels")
        return self

    @model_validator(mode="after")
    def _something_correct(self) -> DistillStage:
        if self.loss.ce_on == "correct" and self.selection.grade == "incorrect":
            raise ValueError("`loss.ce_on: correct` finds nothing among the rollouts of `selection.grade: incorrect`")
        return self

    @model_validator(mode="after")
    def _untempered(self) -> DistillStage:
        if self.selection.delta_ifd is not None and self.scores is None and self.score.temperature != 1:
            raise ValueError("`selection.delta_ifd` compares perplexities, so it needs `score.temperature: 1`")
        return self

    def references(self) -> dict[str, tuple[str, Kind]]:
        found: dict[str, tuple[str, Kind]] = {"model": (self.model, "model"), "data": (self.data, "examples")}
        if self.scores is not None:
            found["scores"] = (self.scores, "scores")
        return found | self.curriculum.references()
