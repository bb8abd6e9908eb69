"""Difficulty from pass rates, and the order and weight that a curriculum gives to examples. Pure functions."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from eyas.records import MODES, Mode, SequenceRecord, seed_for

Order = Literal["shuffle", "easy_to_hard", "hard_to_easy"]
Key = tuple[str, Mode]
"""An example in a mode: what a pass rate belongs to."""


@dataclass(frozen=True)
class PassRates:
    """Pass rates by (example id, mode), and how each was come by."""

    rates: Mapping[Key, float]
    """Smoothed: (correct + 1) / (n + 2), the posterior mean under a flat prior: few rollouts are no certainty."""
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
        graded=counts["graded"],
        pseudo=counts["pseudo"],
        unknown=counts["unknown"],
    )


def frontier_weights(keys: Sequence[Key], rates: Mapping[Key, float]) -> list[float]:
    """p(1-p) divided by its mean over the sequences that have a rate; 1 for the others.

    Source: PACED, arXiv 2603.11178 (alpha = beta = 1), with the smoothed p.
    """
    known = [rates[key] * (1 - rates[key]) for key in keys if key in rates]
    mean = sum(known) / len(known) if known else 1.0
    return [rates[key] * (1 - rates[key]) / mean if key in rates else 1.0 for key in keys]


def training_order(
    keys: Sequence[Key],
    *,
    order: Order,
    rates: Mapping[Key, float],
    modes: Mapping[Mode, float] | None,
    seed: int,
) -> Iterator[int]:
    """Indices of `keys` without end: epoch after epoch, each in its own order, modes interleaved by their shares.

    Every mode runs through its own sequences; a mode with a small share starts its next epoch later. Sequences
    without a rate count as 0.5 in `easy_to_hard` and `hard_to_easy`; ties are shuffled. Deterministic in `seed`.
    """
    by_mode: dict[Mode, list[int]] = defaultdict(list)
    for index, (_, mode) in enumerate(keys):
        by_mode[mode].append(index)
    wanted = {mode: float(len(indices)) for mode, indices in by_mode.items()} if modes is None else dict(modes)
    shares = {mode: wanted[mode] for mode in MODES if by_mode.get(mode) and wanted.get(mode, 0) > 0}
    streams = {
        mode: _epochs(by_mode[mode], keys, order=order, rates=rates, seed=seed_for(seed, mode)) for mode in shares
    }
    credit = dict.fromkeys(shares, 0.0)
    total = sum(shares.values())
    while shares:
        for mode, share in shares.items():
            credit[mode] += share / total
        mode = max(credit, key=lambda name: credit[name])
        credit[mode] -= 1.0
        yield next(streams[mode])


def _epochs(
    indices: Sequence[int], keys: Sequence[Key], *, order: Order, rates: Mapping[Key, float], seed: int
) -> Iterator[int]:
    epoch = 0
    while True:
        shuffled = list(indices)
        Random(seed_for(seed, epoch)).shuffle(shuffled)
        if order != "shuffle":
            sign = -1 if order == "easy_to_hard" else 1
            shuffled.sort(key=lambda index: sign * rates.get(keys[index], 0.5))
        yield from shuffled
        epoch += 1
