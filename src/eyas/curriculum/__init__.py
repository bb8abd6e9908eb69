"""Curriculum: how difficult examples are, and in which order and with which weight they are trained on. Pure."""

from __future__ import annotations

from eyas.curriculum.difficulty import (
    Key,
    PassRates,
    frontier_weights,
    majority,
    majority_answers,
    mean_by_key,
    outside_window,
    pass_rates,
)
from eyas.curriculum.schedules import competence, training_order

__all__ = [
    "Key",
    "PassRates",
    "competence",
    "frontier_weights",
    "majority",
    "majority_answers",
    "mean_by_key",
    "outside_window",
    "pass_rates",
    "training_order",
]
