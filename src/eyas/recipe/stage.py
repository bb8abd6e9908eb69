"""What every stage of a recipe has, and what the rollouts inside one say."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from eyas.recipe.specs import SamplingSpec, Spec
from eyas.records import MODES, Mode

Kind = Literal["examples", "model", "sequences", "scores", "evaluation", "export", "bench", "report"]


class StageSpec(Spec):
    """What every stage has."""

    makes: ClassVar[Kind]
    version: ClassVar[int] = 1
    """Raised when the same config and inputs would give another artifact; part of the fingerprint."""

    name: str = Field(default="", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$|^$")
    """How later stages refer to this one; by default its type."""

    @model_validator(mode="before")
    @classmethod
    def _default_name(cls, value: Any) -> Any:
        if isinstance(value, dict) and not value.get("name") and "type" in value:
            return {**value, "name": value["type"]}
        return value

    def references(self) -> dict[str, tuple[str, Kind]]:
        """Field -> (stage name, kind of artifact it must be)."""
        return {}


class RolloutSpec(Spec):
    """What is sampled, in a rollout stage and in the rollouts inside a distill stage."""

    prompts: Literal["labelled", "unlabelled", "all", "validation"] = "unlabelled"
    """Which split's prompts; `all` is labelled and unlabelled."""
    count: int | None = Field(default=None, ge=1)
    """At most this many prompts."""
    modes: tuple[Mode, ...] = Field(default=MODES, min_length=1)
    """Every prompt is answered once in each of these modes, for every sample."""
    samples_per_prompt: int = Field(default=1, ge=1)
    """Completions per prompt and mode; a pass rate needs several, distillation gets by with 1 (arXiv 2604.13010)."""
    sampling: SamplingSpec = SamplingSpec()
    """How completions are drawn; by default from the model's own distribution."""
