"""Paired comparisons of the evaluated models, and the verdict's raw material."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from eyas.records import Mode, seed_for
from eyas.report.evidence import Evidence, Predictions
from eyas.stats import ALPHA, PairedDifference, PooledDifference, paired_difference

PAIRS = (
    ("distilled", "control"),
    ("distilled", "control_seconds"),
    ("distilled", "seqkd"),
    ("distilled", "sft"),
    ("distilled", "base"),
    ("sft", "base"),
    ("distilled", "teacher"),
)
"""What is compared with what, where both were evaluated."""

Outcome = Literal["ahead", "behind", "level"]


def outcome_of(found: PairedDifference | PooledDifference) -> Outcome:
    """Of `a` in a difference `a` minus `b`: `level` unless the 95 % interval excludes 0 and p is below 0.05.

    The interval alone is too sure of itself where only a handful of examples tell the models apart.
    """
    if found.p_value >= ALPHA or found.low <= 0 <= found.high:
        return "level"
    return "ahead" if found.low > 0 else "behind"


@dataclass(frozen=True)
class Comparison:
    """Accuracy of role `a` minus that of role `b` in one mode, on the same examples."""

    a: str
    b: str
    mode: Mode
    result: PairedDifference

    @property
    def outcome(self) -> Outcome:
        """Of `a`; p is McNemar's, exact."""
        return outcome_of(self.result)

    def as_dict(self) -> dict[str, object]:
        """As in `summary.json`; `p_value` (McNemar's) and `outcome` are beyond the contract."""
        found = self.result
        return {
            "a": self.a, "b": self.b, "mode": self.mode,
            "difference": found.difference, "low": found.low, "high": found.high, "n": found.n,
            "p_value": found.p_value, "outcome": self.outcome,
        }  # fmt: skip


def compare_all(evidence: Evidence) -> list[Comparison]:
    """Every pair of `PAIRS` that was evaluated, by mode."""
    found = (
        compare(evidence.predictions[a], evidence.predictions[b], a=a, b=b, mode=mode, seed=evidence.recipe.seed)
        for a, b in PAIRS
        if a in evidence.evaluations and b in evidence.evaluations
        for mode in evidence.modes
    )
    return [item for item in found if item is not None]


def compare(first: Predictions, second: Predictions, *, a: str, b: str, mode: Mode, seed: int) -> Comparison | None:
    """Join two models' answers on example id and mode; None where no example was graded for both.

    Of several samples an example has the share of right ones, so McNemar's test is the sign test of those shares.
    """
    pairs = [
        (answer.grade, other.grade)
        for key, answer in sorted(first.items())
        if key[1] == mode and answer.grade is not None
        and (other := second.get(key)) is not None and other.grade is not None
    ]  # fmt: skip
    if not pairs:
        return None
    ours, theirs = zip(*pairs, strict=True)
    return Comparison(a, b, mode, paired_difference(ours, theirs, seed=seed_for("bootstrap", seed, a, b, mode)))
