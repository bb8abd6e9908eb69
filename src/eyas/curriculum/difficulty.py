"""Difficulty from pass rates, and what follows from it for one example: its weight, and whether it is used at all."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from eyas.errors import DataError
from eyas.recipe import WindowSpec
from eyas.records import Mode, SequenceRecord

Key = tuple[str, Mode]
"""An example in a mode: what a pass rate belongs to."""


@dataclass(frozen=True)
class PassRates:
    """Pass rates by (example id, mode), and how each was come by."""

    rates: Mapping[Key, float]
    """Smoothed, see `pass_rates`."""
    shares: Mapping[Key, float]
    """As counted: correct / n."""
    graded: int
    pseudo: int
    """How many rest on agreement with the teacher's majority answer instead of a grade."""
    unknown: int
    """How many had neither; they get no rate and weight 1."""


def majority_answers(sequences: Iterable[SequenceRecord]) -> dict[Key, str]:
    """The most frequent extracted answer by example and mode; none where two are equally frequent."""
    answers: dict[Key, list[str | None]] = defaultdict(list)
    for sequence in sequences:
        answers[sequence.example_id, sequence.mode].append(sequence.answer)
    found = {key: majority(given)[0] for key, given in answers.items()}
    return {key: answer for key, answer in found.items() if answer is not None}


def majority(answers: Iterable[str | None]) -> tuple[str | None, int]:
    """(the answer with the most votes, how many the most are); None where two have as many, or nothing voted.

    Source: self-consistency, arXiv 2203.11171, which does not say what a tie is.
    """
    votes = Counter(answer for answer in answers if answer is not None).most_common(2)
    if not votes:
        return None, 0
    tied = len(votes) == 2 and votes[1][1] == votes[0][1]
    return None if tied else votes[0][0], votes[0][1]


def pass_rates(
    sequences: Iterable[SequenceRecord], *, pseudo_answers: Mapping[Key, str], smoothing: float = 1.0
) -> PassRates:
    """Share of each example's rollouts that are right: graded, else by agreement with `pseudo_answers` (`pseudo`).

    `rates` are (correct + s) / (n + 2 s) with s = `smoothing`: for 1 the posterior mean under a flat prior, since few
    rollouts are no certainty, for 0 as counted.
    """
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
        rates={key: (sum(right) + smoothing) / (len(right) + 2 * smoothing) for key, right in outcomes.items()},
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

    Source: PACED, arXiv 2603.11178 (alpha = beta = 1), which takes p as counted; `rates` may be smoothed.

    Raises: DataError, if p is 0 or 1 for every sequence that has a rate.
    """
    known = [rates[key] * (1 - rates[key]) for key in keys if key in rates]
    mean = sum(known) / len(known) if known else 1.0
    if mean == 0:
        raise DataError(
            f"weight p(1-p) is 0 for all {len(known)} sequences with a pass rate: each is always or never right. Raise "
            "`curriculum.smoothing` above 0, take more rollouts, or measure difficulty with another model."
        )
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
