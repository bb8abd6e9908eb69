"""Difficulty from pass rates, and what follows from it for one example: its weight, and whether it is used at all."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from eyas.recipe import WindowSpec
from eyas.records import Mode, SequenceRecord

Key = tuple[str, Mode]
"""An example in a mode: what a pass rate belongs to."""


@dataclass(frozen=True)
class PassRates:
    """Pass rates by (example id, mode), and how each was come by."""

    rates: Mapping[Key, float]
    """Smoothed: (correct + 1) / (n + 2), the posterior mean under a flat prior: few rollouts are no certainty."""
    shares: Mapping[Key, float]
    """As counted: correct / n."""
    graded: int
    pseudo: int
    """How many rest on agreement with the teacher's majority answer instead of a grade."""
    unknown: int
    """How many had neither; they get no rate and weight 1."""


def majority_answers(sequences: Iterable[SequenceRecord]) -> dict[Key, str]:
    """The most frequent extracted answer by example and mode; the first seen wins a tie."""
    votes: dict[Key, Counter[str]] = defaultdict(Counter)
    for sequence in sequences:
        if sequence.answer is not None:
            votes[sequence.example_id, sequence.mode][sequence.answer] += 1
    return {key: counter.most_common(1)[0][0] for key, counter in votes.items()}


def pass_rates(sequences: Iterable[SequenceRecord], *, pseudo_answers: Mapping[Key, str]) -> PassRates:
    """Share of each example's rollouts that are right: graded, else by agreement with `pseudo_answers` (`pseudo`)."""
    outcomes: dict[Key, list[bool]] = defaultdict(list)
    kinds: dict[Key, str] = {}
    for sequence in sequences:
        key = (sequence.example_id, sequence.mode)
        if sequence.grade is not None:
            outcomes[key].append(sequence.grade >= 1.0)
            kinds[key] = "graded"
        elif key in pseudo_answers:
            outcomes[key].append(sequence.answer == pseudo_answers[key])
            kinds[key] = "pseudo"
        else:
            kinds[key] = "unknown"
    counts = Counter(kinds.values())
    return PassRates(
        rates={key: (sum(right) + 1) / (len(right) + 2) for key, right in outcomes.items()},
        shares={key: sum(right) / len(right) for key, right in outcomes.items()},
        graded=counts["graded"],
        pseudo=counts["pseudo"],
        unknown=counts["unknown"],
    )


def mean_by_key(keys: Sequence[Key], values: Sequence[float]) -> dict[Key, float]:
    """Mean of the values of each key."""
    found: dict[Key, list[float]] = defaultdict(list)
    for key, value in zip(keys, values, strict=True):
        found[key].append(value)
    return {key: sum(made) / len(made) for key, made in found.items()}


def frontier_weights(keys: Sequence[Key], rates: Mapping[Key, float]) -> list[float]:
    """p(1-p) divided by its mean over the sequences that have a rate; 1 for the others.

    Source: PACED, arXiv 2603.11178 (alpha = beta = 1), with the smoothed p.
    """
    known = [rates[key] * (1 - rates[key]) for key in keys if key in rates]
    mean = sum(known) / len(known) if known else 1.0
    return [rates[key] * (1 - rates[key]) / mean if key in rates else 1.0 for key in keys]


def outside_window(keys: Sequence[Key], shares: Mapping[Key, float], *, window: WindowSpec) -> list[str | None]:
    """Why each key is left out, by the share of its rollouts that are right as counted; None where it is kept.

    A key without a share is kept: nothing says that it teaches nothing.
    """
    found: list[str | None] = []
    for key in keys:
        share = shares.get(key)
        if share is not None and share > window.high:
            found.append("pass_rate_above_window")
        elif share is not None and window.low is not None and share <= window.low:
            found.append("pass_rate_below_window")
        else:
            found.append(None)
    return found
