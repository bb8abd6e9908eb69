"""What decides in which order and with which weight examples are trained on."""

from __future__ import annotations

from typing import Literal

from eyas.recipe.specs import Spec


class CurriculumSpec(Spec):
    """Order and weight of examples by pass rate, the share of an example's rollouts graded correct."""

    rollouts: str | None = None
    """Rollout stage that measured the pass rates; in `distill` by default its own rollouts."""
    pseudo_answers: str | None = None
    """Teacher rollout stage whose majority answer stands in where a prompt has no answer (`pseudo`)."""
    order: Literal["shuffle", "easy_to_hard", "hard_to_easy"] = "shuffle"
    """Order of the examples within an epoch."""
    weight: Literal["uniform", "frontier"] = "uniform"
    """`frontier`: p(1-p) divided by its mean (PACED, arXiv 2603.11178), p smoothed as (correct+1)/(n+2)."""
