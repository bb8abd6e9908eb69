"""What is kept of a teacher's distribution: the part of a recipe that a score stage and a distill stage share."""

from __future__ import annotations

from pydantic import Field, model_validator

from eyas.recipe.loss import Target
from eyas.recipe.specs import Spec


class ScoreSpec(Spec):
    """What is kept of the teacher's distribution, in a score stage and in the scoring inside a distill stage."""

    target: Target = "top_k"
    """`top_k`: its likeliest ids, the rest in a tail. `random_sampling`: ids drawn from it with replacement, each with
    its share of the draws and no tail, a target without bias (arXiv 2503.16870); only for `forward_kl`."""
    top_k: int = Field(default=10, ge=1)
    """Entries per token at most; the paper's 10. Nothing to `random_sampling`."""
    mass: float = Field(default=0.9999, gt=0, le=1)
    """A token's entry list ends when its captured mass reaches this; 1 keeps all k. Measured at k = 10: a task-tuned
    SmolLM2 needs 2.4 entries and 5.9 bytes a token instead of 10 and 17.3, the untuned one 9.9 and 23.0 instead of 10
    and 23.2. What is dropped is in the tail; were it lost evenly over the vocabulary, that would cost 1.5e-4 nats a
    token at most (0.999: 7.7e-4 and 0.7 bytes less)."""
    samples: int = Field(default=50, ge=1, le=65535)
    """Draws per token of `random_sampling`; the paper's 50, about a dozen different ids."""
    temperature: float = Field(default=1.0, gt=0)
    """Divides the teacher's logits. Cannot be undone later, hence a property of the scores."""
    unconditional: bool = False
    """Also keep how likely the teacher finds each completion without its prompt: another prefill of the completions.
    Set by `expand` where `selection.delta_ifd` needs it."""

    @model_validator(mode="after")
    def _all_read(self) -> ScoreSpec:
        unread = ("samples",) if self.target == "top_k" else ("top_k", "mass")
        for name in unread:
            if getattr(self, name) != ScoreSpec.model_fields[name].default:
                raise ValueError(f"`{name}` does nothing with target {self.target}: leave it out")
        return self

    @model_validator(mode="after")
    def _perplexities(self) -> ScoreSpec:
        if self.unconditional and self.temperature != 1:
            raise ValueError(
                f"`unconditional` keeps perplexities: it needs `temperature` 1, found {self.temperature:g}"
            )
        return self
