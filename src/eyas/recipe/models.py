"""Which models a recipe works on, and which of their layers it takes away."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from eyas.recipe.sources import DataSource
from eyas.recipe.specs import Spec


class PruneSpec(Spec):
    """Which layers depth pruning takes away: those that matter least on calibration examples (docs/pruning.md)."""

    by: Literal["angular_distance", "block_influence", "perplexity", "perplexity_greedy"]
    """`angular_distance`: the block of consecutive layers whose output is nearest to its input (arXiv 2403.17887).
    `block_influence`: the layers that change their input least, each by itself (ShortGPT, arXiv 2403.03853).
    `perplexity`: the layers without which perplexity rises least, each by itself (arXiv 2402.02834).
    `perplexity_greedy`: the same, one layer after the other, measured anew each time (SLEB, arXiv 2402.09025)."""
    data: DataSource | None = None
    """Where the calibration examples come from, its training split; by default the source of the recipe's first
    prepare stage."""
    examples: int = Field(default=64, ge=1)
    """At most this many calibration examples, the same for every seed of the recipe."""
    max_length: int = Field(default=512, ge=8)
    """Longer calibration sequences are cut to this many tokens."""


class ModelSpec(Spec):
    """A causal language model. A plain string is short for `{from: STRING}`. No code of its own is ever run."""

    from_: str | None = Field(default=None, alias="from")
    """Hub id, local directory, `builtin:nano-student`, `builtin:nano-teacher` or `builtin:smollm2-135m`."""
    keep_layers: int | None = Field(default=None, ge=1)
    """Depth-prune to this many layers; without `prune` evenly spaced ones, the first and the last kept."""
    prune: PruneSpec | None = Field(default=None, exclude_if=lambda value: value is None)
    """How the layers to keep are chosen; by default evenly spaced."""
    config: dict[str, Any] | None = None
    """Random initialisation from this `transformers` config (must hold `model_type`), instead of `from`."""
    tokenizer: str | None = None
    """Where the tokenizer comes from; by default the model itself. Required with `config`."""
    revision: str | None = None
    """Hub revision (commit, tag or branch)."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Numeric type of the weights in memory."""

    @model_validator(mode="after")
    def _one_origin(self) -> ModelSpec:
        if (self.from_ is None) == (self.config is None):
            raise ValueError("a model needs exactly one of `from` and `config`")
        if self.config is not None and self.tokenizer is None:
            raise ValueError("a model made from `config` needs `tokenizer`")
        if self.config is not None and "model_type" not in self.config:
            raise ValueError("`config` needs `model_type`, for instance llama")
        if self.prune is not None and self.keep_layers is None:
            raise ValueError("`prune` chooses layers, but not how many: add `keep_layers`, or take `prune` out")
        return self


def as_model_spec(value: object) -> object:
    """`{from: STRING}` for a plain string, anything else as it is."""
    return {"from": value} if isinstance(value, str) else value


Model = Annotated[ModelSpec, BeforeValidator(as_model_spec)]
