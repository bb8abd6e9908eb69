"""Ablations declared in a recipe: its variants, and what is claimed about them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from eyas.recipe.specs import Spec
from eyas.records import Mode

VariantName = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
"""No dot: in a claim it parts the variant from the role."""


class VariantSpec(Spec):
    """The recipe with some fields changed."""

    name: str = Field(pattern=VariantName)
    """Names its runs and its rows on the page."""
    set_: dict[str, Any] = Field(default={}, alias="set")
    """Dotted key -> value, as with `--set`; none is the recipe as written."""


class ClaimSpec(Spec):
    """A statement that the ablation puts to the test: accuracy of `a` minus that of `b`, pooled over the seeds."""

    claim: str
    """The statement in words."""
    a: str
    """VARIANT or VARIANT.ROLE; without a role the variant's last trained one, `distilled` where it has that."""
    b: str
    """What `a` is compared with, written in the same way."""
    mode: Mode
    """In which mode."""
    expect: Literal["greater", "not_worse"] = "greater"
    """`greater`: the difference is above 0. `not_worse`: it is above minus `margin`."""
    margin: float = Field(default=0.02, ge=0, lt=1)
    """How much worse still counts as `not_worse`, as a share: 0.02 is two points, about what 2,000 test examples can
    tell apart in a single run."""

    @property
    def bound(self) -> float:
        """What the difference must exceed."""
        return -self.margin if self.expect == "not_worse" else 0.0


class AblationSpec(Spec):
    """What `eyas ablate` runs where no `--vary` is given."""

    variants: tuple[VariantSpec, ...] = Field(min_length=1)
    """The first one is the baseline, with which the others are compared."""
    claims: tuple[ClaimSpec, ...] = ()
    """Statements about variants; each gets a verdict on the page."""

    @model_validator(mode="after")
    def _known_names(self) -> AblationSpec:
        names = [variant.name for variant in self.variants]
        if len(set(names)) < len(names):
            raise ValueError(f"each variant needs a name of its own, found {', '.join(names)}")
        for claim in self.claims:
            for side in (claim.a, claim.b):
                if side.partition(".")[0] not in names:
                    raise ValueError(
                        f"claim {claim.claim!r} names no variant in {side!r}; variants: {', '.join(names)}"
                    )
        return self
