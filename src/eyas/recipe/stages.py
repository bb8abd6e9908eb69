"""One config class per stage; those that train are in training.py. Stages meet only through artifacts."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from eyas.recipe.edge import BenchStage, ExportStage
from eyas.recipe.score import ScoreSpec
from eyas.recipe.sources import DataSource, HeldOut, PlainSource
from eyas.recipe.specs import SamplingSpec
from eyas.recipe.stage import Kind, RolloutSpec, StageSpec
from eyas.recipe.training import DistillStage, SftStage
from eyas.records import MODES, Mode


class PrepareStage(StageSpec):
    """Load, deduplicate, decontaminate and split examples; what is dropped and why is in docs/preparation.md."""

    makes: ClassVar[Kind] = "examples"
    version: ClassVar[int] = 4
    type: Literal["prepare"]
    source: DataSource
    """Where the examples come from."""
    labelled: int = Field(default=2000, ge=0)
    """Training examples whose answers may be used; 0 takes none. At most what the source has."""
    unlabelled: int = Field(default=0, ge=0)
    """Training prompts whose answers are removed here and never seen again."""
    validation: int = Field(default=200, ge=1)
    """Examples for choosing checkpoints and measuring divergence. Where the source has no answered ones, prompts
    alone, which are enough for the divergence."""
    test: int = Field(default=1000, ge=1)
    """Held-out examples for the report."""
    off_task: Annotated[PlainSource, Field(discriminator="type")] | None = None
    """Where the prompts of the forgetting check come from."""
    off_task_count: int = Field(default=200, ge=1)
    """How many prompts the forgetting check has; nothing without `off_task`."""
    exclude: str | None = None
    """File of example ids to leave out, one a line or as JSON Lines with `id`: an edited `dropped.jsonl` will do."""
    min_characters: int = Field(default=1, ge=1)
    """Shorter prompts are dropped; by default none."""
    max_characters: int = Field(default=1_000_000, ge=1)
    """Longer prompts are dropped; the default is beyond any context window."""
    languages: tuple[str, ...] = ()
    """ISO 639 codes; a prompt surely in another language is dropped (extra `eyas[language]`). Empty for no check."""
    held_out_elsewhere: tuple[HeldOut, ...] = ()
    """Set by `expand`: evaluation sets of the recipe's other prepare stages, of which training may hold nothing."""

    @model_validator(mode="after")
    def _some_length(self) -> PrepareStage:
        if self.min_characters > self.max_characters:
            raise ValueError(
                f"`min_characters: {self.min_characters}` is above `max_characters: {self.max_characters}`, so that no "
                "prompt could pass"
            )
        return self


class RolloutStage(RolloutSpec, StageSpec):
    """Completions as token ids, with sampling log-probs, finish reason and grade."""

    makes: ClassVar[Kind] = "sequences"
    type: Literal["rollout"]
    model: str = "student"
    """`student`, `teacher` or the stage whose weights sample; with prefix `label` only its tokenizer is used."""
    data: str = "prepare"
    """The prepare stage whose prompts are used."""
    prefix: Literal["student", "teacher", "label"] = "student"
    """Whose completions these are; `label` renders the labelled examples' references and samples nothing."""

    @model_validator(mode="after")
    def _own_prefix(self) -> RolloutStage:
        if self.prefix == "student" and self.model == "teacher":
            raise ValueError("the teacher's completions are no student prefixes: give `prefix: teacher`")
        return self

    def references(self) -> dict[str, tuple[str, Kind]]:
        return {"data": (self.data, "examples"), "model": (self.model, "model")}


class SynthesizeStage(RolloutSpec, StageSpec):
    """Labels for prompts that have none: the teacher answers each several times, one answer is kept.

    Where the grader can tell (labelled prompts), the shortest correct completion; elsewhere the shortest of those with
    the majority answer. `expand` puts the rollout before it, named `NAME.rollout`. Train on it by `sft`'s `sequences`.
    """

    makes: ClassVar[Kind] = "sequences"
    type: Literal["synthesize"]
    model: str = "teacher"
    """`teacher`, or the stage whose weights answer."""
    data: str = "prepare"
    """The prepare stage whose prompts are answered."""
    prompts: Literal["labelled", "unlabelled", "all"] = "unlabelled"
    """Which split's prompts; `all` is labelled and unlabelled."""
    samples_per_prompt: int = Field(default=8, ge=1)
    """Answers per prompt and mode, of which one is kept."""
    min_agreement: float = Field(default=0.5, gt=0, le=1)
    """Least share of a prompt's samples that must have the majority's answer, where there is nothing to grade by."""
    sequences: str | None = None
    """Rollout stage to choose from, instead of sampling; set by `expand`."""

    @model_validator(mode="after")
    def _choice(self) -> SynthesizeStage:
        if self.samples_per_prompt > 1 and self.sampling.temperature == 0:
            raise ValueError("`synthesize` chooses among different samples: give `sampling.temperature` above 0")
        if self.samples_per_prompt == 1 and self.prompts != "labelled":
            raise ValueError(
                "one sample agrees with itself whatever it says: give `samples_per_prompt` above 1, or take the "
                "teacher's answers unchecked by a `rollout` stage with `prefix: teacher`"
            )
        return self

    def references(self) -> dict[str, tuple[str, Kind]]:
        found: dict[str, tuple[str, Kind]] = {"model": (self.model, "model"), "data": (self.data, "examples")}
        return found if self.sequences is None else {"sequences": (self.sequences, "sequences")}


class ScoreStage(ScoreSpec, StageSpec):
    """The teacher's top-k log-probs on given sequences, computed once."""

    makes: ClassVar[Kind] = "scores"
    version: ClassVar[int] = 3
    type: Literal["score"]
    model: str = "teacher"
    """`teacher`, or the stage whose weights score."""
    sequences: str = "rollout"
    """The rollout stage whose sequences are scored."""

    def references(self) -> dict[str, tuple[str, Kind]]:
        return {"model": (self.model, "model"), "sequences": (self.sequences, "sequences")}


class EvaluateStage(StageSpec):
    """Accuracy, divergence and forgetting of models on the held-out examples.

    A recipe writes one such stage with `models`; `expand` makes one per model, named `NAME.ROLE`,
    after a rollout and scoring of the fixed sequences the divergence is measured on.
    """

    makes: ClassVar[Kind] = "evaluation"
    version: ClassVar[int] = 5
    type: Literal["evaluate"]
    models: dict[str, str] = Field(min_length=1)
    """Role in the report -> `student`, `teacher` or a stage name."""
    data: str = "prepare"
    """The prepare stage whose test, validation and off-task examples are used."""
    modes: tuple[Mode, ...] = Field(default=MODES, min_length=1)
    """The modes in which every example is answered."""
    sampling: SamplingSpec = SamplingSpec(temperature=0.0)
    """Greedy unless the recipe says otherwise."""
    samples_per_prompt: int = Field(default=1, ge=1)
    """Answers per example and mode; several need a `sampling.temperature` above 0, greedy ones being all the same."""
    pass_at: tuple[Annotated[int, Field(ge=1)], ...] = (1,)
    """The k of the report's pass@k (arXiv 2107.03374), each at most `samples_per_prompt`."""
    divergence_prompts: int = Field(default=128, ge=0)
    """Validation prompts on whose sampled completions KL(teacher || model) is measured; 0 measures none."""
    divergence_scores: dict[str, str] = {}
    """Set by `expand`: whose prefixes -> score stage."""

    @model_validator(mode="after")
    def _sampled(self) -> EvaluateStage:
        if self.samples_per_prompt > 1 and self.sampling.temperature == 0:
            raise ValueError(
                f"`samples_per_prompt: {self.samples_per_prompt}` needs `sampling.temperature` above 0: "
                "greedy answers to one prompt are all the same"
            )
        if too_many := [k for k in self.pass_at if k > self.samples_per_prompt]:
            raise ValueError(
                f"`pass_at: {too_many[0]}` needs at least as many samples, found "
                f"`samples_per_prompt: {self.samples_per_prompt}`"
            )
        return self

    def references(self) -> dict[str, tuple[str, Kind]]:
        found: dict[str, tuple[str, Kind]] = {"data": (self.data, "examples")}
        found |= {f"model:{role}": (name, "model") for role, name in self.models.items()}
        return found | {f"scores:{prefix}": (name, "scores") for prefix, name in self.divergence_scores.items()}


class ReportStage(StageSpec):
    """One self-contained page and `summary.json` over everything the run made."""

    makes: ClassVar[Kind] = "report"
    version: ClassVar[int] = 2
    type: Literal["report"]
    title: str | None = None
    """Heading of the page; by default the recipe's name."""
    transcripts: int = Field(default=12, ge=0)
    """How many held-out prompts are shown with every model's answer."""


Stage = Annotated[
    PrepareStage
    | SftStage
    | RolloutStage
    | SynthesizeStage
    | ScoreStage
    | DistillStage
    | EvaluateStage
    | ExportStage
    | BenchStage
    | ReportStage,
    Field(discriminator="type"),
]
