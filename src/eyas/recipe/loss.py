"""The loss of a training stage, and which of its parts go together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, model_validator

from eyas.recipe.specs import SamplingSpec, Spec

Objective = Literal["divergence", "sampled_advantage", "asymmetric"]
Divergence = Literal[
    "forward_kl", "reverse_kl", "jsd", "skew_forward", "skew_reverse", "adaptive_kl", "tvd", "alpha_beta"
]
Tail = Literal["bucket", "renormalise", "drop", "decoupled"]
Target = Literal["top_k", "random_sampling"]


@dataclass(frozen=True)
class Legal:
    """One legal choice of objective, divergence and target, and what may go with it."""

    objective: Objective
    divergence: Divergence | None
    """None where the objective has no divergence, nor a tail."""
    tails: tuple[Tail, ...]
    parameters: tuple[str, ...] = ()
    """Fields of LossSpec that this choice reads; those of tail `decoupled` are DECOUPLED."""
    target: Target = "top_k"

    @property
    def sampled(self) -> bool:
        """Whether the token's own log-prob counts: then prefixes are the student's, scored at temperature 1."""
        return self.objective != "divergence"


DECOUPLED = ("head_entries", "tail_weight")
LEGAL: tuple[Legal, ...] = (
    Legal("divergence", "forward_kl", ("bucket", "renormalise", "drop", "decoupled")),
    Legal("divergence", "forward_kl", ("bucket",), target="random_sampling"),
    Legal("divergence", "reverse_kl", ("bucket", "renormalise")),
    Legal("divergence", "jsd", ("bucket", "renormalise"), ("beta",)),
    Legal("divergence", "skew_forward", ("bucket", "renormalise", "drop"), ("skew",)),
    Legal("divergence", "skew_reverse", ("bucket", "renormalise"), ("skew",)),
    Legal("divergence", "adaptive_kl", ("bucket", "renormalise"), ("head_mass",)),
    Legal("divergence", "tvd", ("bucket", "renormalise")),
    Legal("divergence", "alpha_beta", ("bucket", "renormalise"), ("alpha", "beta")),
    Legal("sampled_advantage", None, (), ("advantage_clip",)),
    Legal("asymmetric", "forward_kl", ("bucket", "renormalise", "drop"), ("advantage_clip",)),
)
"""Everything else is a recipe error. `drop` is no divergence where the student's own mass weighs the terms, and
`decoupled` and random sampling are made for the forward KL, whose gradient is linear in the target."""
DEFAULTS: dict[tuple[str, str | None], float] = {
    ("beta", "jsd"): 0.5,
    ("beta", "alpha_beta"): 0.7,
    ("alpha", "alpha_beta"): 0.2,
    ("skew", "skew_forward"): 0.1,
    ("skew", "skew_reverse"): 0.1,
    ("head_mass", "adaptive_kl"): 0.5,
    ("head_entries", None): 5,
    ("tail_weight", None): 1.0,
    ("advantage_clip", None): 10.0,
}
"""Of a parameter and the divergence it is for; None is any. Their sources stand at the fields."""


class LossSpec(Spec):
    """(1-lambda)·CE + lambda·D over completion tokens (arXiv 2509.26497). `docs/losses.md` has every formula."""

    kd_weight: float = Field(default=0.9, ge=0, le=1, alias="lambda")
    """Weight of D; the paper's and NPD's 0.9."""
    objective: Objective = "divergence"
    """What D is: a divergence; the policy gradient of `sampled_advantage` (Lightning OPD, arXiv 2604.13010); or
    `asymmetric`, that one where the teacher likes the token better and the divergence elsewhere (AOPD, 2605.06387)."""
    divergence: Divergence = "forward_kl"
    """Between the teacher's entries and the student; the paper's is KL(teacher || student)."""
    tail: Tail = "bucket"
    """What happens to the mass outside the teacher's top-k; `bucket` is the ghost token of arXiv 2503.16870."""
    beta: float | None = Field(default=None, gt=0, lt=1)
    """`jsd`: weight of the teacher in the mixture, 0.5 by default (arXiv 2306.13649, TRL's convention).
    `alpha_beta`: exponent of the student, 0.7 by default (arXiv 2505.04560)."""
    alpha: float | None = Field(default=None, gt=0, lt=1)
    """`alpha_beta`: exponent of the teacher, 0.2 by default (arXiv 2505.04560)."""
    skew: float | None = Field(default=None, gt=0, lt=1)
    """`skew_*`: share of the other side that is mixed in, 0.1 by default (DistiLLM, arXiv 2402.03898)."""
    head_mass: float | None = Field(default=None, gt=0, lt=1)
    """`adaptive_kl`: teacher mass that counts as the head, 0.5 by default (AKL, arXiv 2404.02657)."""
    head_entries: int | None = Field(default=None, ge=1)
    """Tail `decoupled`: the teacher's top entries that are set apart, 5 by default: half of the default top-k."""
    tail_weight: float | None = Field(default=None, ge=0)
    """Tail `decoupled`: weight of the KL among the rest, 1 by default; the chain rule would give it the rest's mass."""
    advantage_clip: float | None = Field(default=None, gt=0)
    """Objectives with an advantage: most that it counts in either direction, 10 nats by default (arXiv 2604.13010)."""
    ce_on: Literal["all", "correct", "label"] = "all"
    """Which completions carry the cross-entropy term."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, value: Any) -> Any:
        """The defaults of the parameters that the choice has, so that a resolved recipe shows them."""
        choice = ("objective", "divergence", "tail")
        if not isinstance(value, dict) or not all(isinstance(value.get(name, ""), str) for name in choice):
            return value
        divergence = value.get("divergence", "forward_kl")
        filled = dict(value)
        for name in _parameters(value.get("objective", "divergence"), divergence, value.get("tail", "bucket")):
            if filled.get(name) is None:
                filled[name] = DEFAULTS[name, divergence if (name, divergence) in DEFAULTS else None]
        return filled

    @model_validator(mode="after")
    def _legal(self) -> LossSpec:
        row = self.row
        if row.divergence is None and (self.divergence, self.tail) != ("forward_kl", "bucket"):
            raise ValueError(f"objective {self.objective} has neither divergence nor tail: leave both out")
        if row.divergence is not None and self.tail not in row.tails:
            raise ValueError(f"tail {self.tail} does not go with {self.objective_name}; legal: {', '.join(row.tails)}")
        read = _parameters(self.objective, self.divergence, self.tail)
        for name in sorted({key for key, _ in DEFAULTS}):
            if getattr(self, name) is not None and name not in read:
                raise ValueError(
                    f"`{name}` does nothing with {self.objective_name} and tail {self.tail}: leave it out; "
                    f"read here: {', '.join(read) or 'none of its kind'}"
                )
        return self

    @property
    def objective_name(self) -> str:
        """Objective and divergence in a few words."""
        if self.objective == "divergence":
            return self.divergence
        return self.objective if self.row.divergence is None else f"{self.objective} with {self.divergence}"

    @property
    def summary(self) -> str:
        """What is minimised, with its tail and parameters, for a model card."""
        read = _parameters(self.objective, self.divergence, self.tail)
        tail = () if self.row.divergence is None else (f"tail {self.tail}",)
        return ", ".join([self.objective_name, *tail, *(f"{name} {getattr(self, name):g}" for name in read)])

    @property
    def row(self) -> Legal:
        """The row of LEGAL for top-k targets.

        Raises: ValueError, if there is none.
        """
        row = _row(self.objective, self.divergence, "top_k")
        if row is not None:
            return row
        legal = [row.divergence for row in LEGAL if row.objective == self.objective and row.divergence is not None]
        raise ValueError(f"objective {self.objective} does not go with {self.divergence}; legal: {', '.join(legal)}")

    def problem_with(
        self, *, target: Target, prefix: str, temperature: float, top_k: int, mass: float, sampling: SamplingSpec
    ) -> str | None:
        """Why this loss cannot be computed on such scores of such sequences, and what to do; None where it can."""
        drawn = _row(self.objective, self.divergence, "random_sampling")
        if target == "random_sampling" and (drawn is None or self.tail not in drawn.tails):
            rows = [row for row in LEGAL if row.target == "random_sampling"]
            legal = "; ".join(f"{row.divergence} with tail {' or '.join(row.tails)}" for row in rows)
            return (
                f"scores of target random_sampling do not go with {self.objective_name} and tail {self.tail}: drawn "
                f"entries are unbiased only where the gradient is linear in the target. Legal: {legal}"
            )
        least = 1 + (self.head_entries or 1)
        if self.tail in ("renormalise", "decoupled") and target == "top_k" and (mass < 1 or top_k < least):
            return (
                f"loss.tail {self.tail} compares entries with one another, found lists that may end after the first "
                f"(score.mass {mass:g}, score.top_k {top_k}). Set score.mass to 1 and score.top_k to {least} or more"
            )
        if self.ce_on == "label" and prefix != "label":
            return f"loss.ce_on label needs prefix label: {prefix} prefixes are no labels"
        drawn_from = (sampling.temperature, sampling.top_p, sampling.min_p)
        if self.row.sampled and prefix == "student" and drawn_from != (1, 1, 0):
            return (
                f"loss.objective {self.objective} needs tokens drawn from the student's own distribution, found "
                "sampling at temperature {:g}, top_p {:g}, min_p {:g}. Set them to 1, 1 and 0".format(*drawn_from)
            )
        if self.row.sampled and prefix != "student":
            return (
                f"loss.objective {self.objective} needs tokens drawn from the student, found prefix {prefix}. "
                "Set prefix: student, or objective: divergence"
            )
        if self.row.sampled and temperature != 1.0:
            return (
                f"loss.objective {self.objective} compares log-probs at temperature 1, found scores of temperature "
                f"{temperature:g}. Set score.temperature to 1"
            )
        return None


def _row(objective: str, divergence: str, target: Target) -> Legal | None:
    fits = (row for row in LEGAL if row.objective == objective and row.divergence in (None, divergence))
    return next((row for row in fits if row.target == target), None)


def _parameters(objective: str, divergence: str, tail: str) -> Sequence[str]:
    """Fields that a choice reads; of an illegal one none."""
    row = _row(objective, divergence, "top_k")
    if row is None:
        return ()
    return row.parameters + (DECOUPLED if tail == "decoupled" and "decoupled" in row.tails else ())
