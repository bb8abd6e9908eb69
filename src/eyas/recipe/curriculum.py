"""What decides in which order and with which weight examples are trained on."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from eyas.recipe.specs import Spec
from eyas.recipe.stage import Kind, RolloutSpec


class DifficultySpec(RolloutSpec):
    """Rollouts of a named checkpoint that only measure pass rates; stages with the same settings share them."""

    model: str
    """The checkpoint: `student`, `teacher` or the stage whose weights sample."""
    prompts: Literal["labelled", "unlabelled", "all"] = "all"
    """Which split's prompts; `labelled` is enough for `sft` on labels."""
    samples_per_prompt: int = Field(default=8, ge=1)
    """Completions per prompt and mode; in PACED (arXiv 2603.11178) 4 cost 1.2 points against 8, and 16 gave 0.5."""


class WindowSpec(Spec):
    """The pass rates, as counted, of the examples that are trained on; others are dropped and counted."""

    low: float | None = Field(default=0.0, ge=0, lt=1)
    """Drop what is passed at most this often; 0 drops what never is, null drops nothing."""
    high: float = Field(default=0.9, gt=0, le=1)
    """Drop what is passed more often than this: it is learnt already."""

    @model_validator(mode="after")
    def _ordered(self) -> WindowSpec:
        if self.low is not None and not self.low < self.high:
            raise ValueError(f"`window` needs low < high, found low {self.low:g} and high {self.high:g}")
        return self


class PacingSpec(Spec):
    """How fast `order: competence` goes from the easiest examples to all (arXiv 1903.09848)."""

    initial: float = Field(default=0.1, gt=0, le=1)
    """Share of the examples, the easiest, that the first step draws from. The paper's 0.01 is of 100,000s of examples
    and would be a handful of most labelled sets."""
    until: float = Field(default=0.5, gt=0, le=1)
    """Share of the stage's steps after which all examples are drawn from; the paper sets it by a run without
    curriculum, to where that reaches 90 % of its final quality."""


class CurriculumSpec(Spec):
    """Order and weight of examples by difficulty: the pass rate, the share of an example's rollouts graded correct,
    or, for the order, another signal."""

    rollouts: str | None = None
    """Rollout stage that measured the pass rates; in `distill` by default its own rollouts."""
    difficulty: DifficultySpec | None = None
    """Measure the pass rates, instead of `rollouts`; for instance {model: sft, samples_per_prompt: 8}."""
    pseudo_answers: str | None = None
    """Teacher rollout stage whose majority answer stands in where a prompt has no answer (`pseudo`)."""
    window: WindowSpec | None = None
    """Which pass rates are trained on, for instance {low: 0, high: 0.9}; by default all."""
    order: Literal["shuffle", "easy_to_hard", "hard_to_easy", "competence", "balanced"] = "shuffle"
    """Order of the examples within an epoch; `competence` draws from a growing share of the easiest, `balanced` puts
    equally many of every difficulty into every step (after openPangu Embedded's mix, arXiv 2505.22375)."""
    signal: Literal["pass_rate", "length", "teacher_nll"] = "pass_rate"
    """What makes an example hard for `order`: few right rollouts; many completion tokens; or, in `distill`, a large
    mean NLL of its completion tokens under the teacher's scores. Not for `weight` and `window`."""
    pacing: PacingSpec = PacingSpec()
    """Pace of `order: competence`."""
    bins: int = Field(default=3, ge=2)
    """Equally large groups of like difficulty that `order: balanced` takes turns between; 3 is terciles."""
    weight: Literal["uniform", "frontier"] = "uniform"
    """`frontier`: p(1-p) divided by its mean (PACED, arXiv 2603.11178)."""
    smoothing: float = Field(default=1.0, ge=0)
    """s in p = (correct + s) / (n + 2s), for `weight` and `order`. 0 is PACED's p as counted, which leaves examples
    that are always or never right without weight; 1, a flat prior, leaves them 0.36 of the most at 8 rollouts."""

    @model_validator(mode="after")
    def _one_measurement(self) -> CurriculumSpec:
        if self.difficulty is not None and self.rollouts is not None:
            raise ValueError("give one of `difficulty`, which samples rollouts, and `rollouts`, which names a stage's")
        if self.difficulty is not None and not self.needs_pass_rates:
            raise ValueError("nothing uses `difficulty`: set `order`, `weight` or `window`, or drop it")
        if self.signal != "pass_rate" and self.order == "shuffle":
            raise ValueError(f"nothing uses `signal: {self.signal}`: set `order`, or drop it")
        return self

    def references(self) -> dict[str, tuple[str, Kind]]:
        """As `StageSpec.references`, of the stages that difficulty is read from."""
        read = {"pass_rates": self.rollouts, "pseudo_answers": self.pseudo_answers}
        return {key: (name, "sequences") for key, name in read.items() if name is not None}

    @property
    def needs_pass_rates(self) -> bool:
        """Whether anything follows from pass rates."""
        ordered = self.order != "shuffle" and self.signal == "pass_rate"
        return ordered or self.weight != "uniform" or self.window is not None

    @property
    def decides(self) -> list[str]:
        """What difficulty decides, in words; empty where nothing follows from it."""
        by = {"pass_rate": "", "length": " by length", "teacher_nll": " by the teacher's NLL"}[self.signal]
        order = [f"order {self.order.replace('_', ' ')}{by}"] if self.order != "shuffle" else []
        weight = [f"weight {self.weight}"] if self.weight != "uniform" else []
        if self.window is None:
            return order + weight
        low = "" if self.window.low is None else f"{self.window.low:g} < "
        return [*order, *weight, f"only {low}pass rate ≤ {self.window.high:g}"]
