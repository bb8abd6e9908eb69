"""Differences between two models on the same examples, and means over tokens, with their intervals. numpy only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eyas.proportions import mcnemar_exact, tango

ALPHA = 0.05
"""What p must be below for a difference to count as shown."""
RESAMPLES = 10_000
"""Bootstrap resamples: the 2.5 % quantile then rests on 250 of them (Efron & Tibshirani 1993, §13.3, ask for 1,000)."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PairedDifference:
    """Mean of `a - b` over the same examples, as a share (0.05 is 5 points)."""

    difference: float
    low: float
    high: float
    """95 %: Tango's score interval where grades are right or wrong, else the percentile bootstrap over the examples."""
    n: int
    wins: int
    """Examples on which a's grade is higher than b's."""
    losses: int
    p_value: float
    """Two-sided exact McNemar."""


@dataclass(frozen=True)
class TokenMean:
    """Mean over the tokens of `n` sequences."""

    value: float
    low: float
    high: float
    """95 % percentile bootstrap interval over the sequences."""
    n: int


@dataclass(frozen=True)
class PooledDifference:
    """Mean of `a - b` over examples and seeds."""

    difference: float
    low: float
    high: float
    """95 % interval over seeds and examples, within [-1, 1]."""
    n: int
    """Graded pairs, over all seeds."""
    per_seed: tuple[float, ...]
    p_value: float
    """Two-sided. Of one seed exact McNemar; of several twice the smaller share of the interval's draws on one side of
    0, so it is below 0.05 where the interval excludes 0."""


def paired_difference(a: ArrayLike, b: ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES) -> PairedDifference:
    """Compare the grades of two models on the same examples, in the same order.

    Where grades are right or wrong the interval is `tango`'s. Where they are shares it is bootstrapped, but reaches as
    far as `tango`'s of wins and losses on a side on which there are none: of that side a bootstrap knows nothing.

    The bootstrap draws examples, never single grades, so what makes an example easy for both cancels. Equal
    differences are interchangeable, so counts per distinct difference are drawn from a multinomial: the same
    distribution as drawing examples, at a cost that does not grow with their number.

    Args:
        a, b: grades [n], 0 to 1.

    Raises: ValueError, if the two are not of one length, or empty.
    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, ch. 13 (percentile interval).
    """
    differences = _differences(a, b)
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    low, high = tango(wins, losses, len(differences))
    if not np.isin(differences, (-1, 0, 1)).all():
        drawn = _quantiles(_bootstrap_means(differences[None], np.random.default_rng(seed), resamples))
        low = drawn[0] if losses else min(low, drawn[0])
        high = drawn[1] if wins else max(high, drawn[1])
    return PairedDifference(
        difference=float(differences.mean()), low=low, high=high, n=len(differences),
        wins=wins, losses=losses, p_value=mcnemar_exact(wins, losses),
    )  # fmt: skip


def shown_below(found: PairedDifference | PooledDifference, bound: float) -> bool:
    """Whether a difference is shown to lie below a bound of 0 or less: by its interval, and by p.

    The interval alone is too sure of itself where only a handful of examples tell two models apart.
    """
    return found.high < bound and found.p_value < ALPHA


def token_mean(values: Sequence[ArrayLike], *, seed: int = 0, resamples: int = RESAMPLES) -> TokenMean:
    """Mean of per-token values over all tokens; whole sequences are drawn, since a sequence's tokens are alike.

    Args:
        values: per sequence [T_i], any lengths but all zero.

    Raises: ValueError, if there is no token.
    Source: Efron & Tibshirani 1993, ch. 13 (percentile interval), for a ratio of two sums.
    """
    rows = [np.asarray(row, dtype=np.float64) for row in values]
    sums = np.array([row.sum() for row in rows])
    counts = np.array([len(row) for row in rows], dtype=np.float64)
    if not counts.sum():
        raise ValueError("token_mean: no tokens, so there is no mean of them.")
    drawn = np.random.default_rng(seed).integers(len(rows), size=(resamples, len(rows)))
    totals = counts[drawn].sum(axis=1)
    low, high = np.quantile(sums[drawn].sum(axis=1)[totals > 0] / totals[totals > 0], [0.025, 0.975])
    return TokenMean(value=float(sums.sum() / counts.sum()), low=float(low), high=float(high), n=len(rows))


def pooled_difference(
    runs: Sequence[tuple[ArrayLike, ArrayLike]],
    *,
    same_examples: bool,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> PooledDifference:
    """Compare two recipes over several seeds: one (grades of a, grades of b) per seed.

    Examples are drawn with replacement, jointly for all seeds where these share them (`same_examples`, in the same
    order), otherwise within each seed; every seed weighs the same. Seeds are too few to be drawn (a bootstrap of
    three understates their spread by a third in variance): their standard error is multiplied by a draw of
    Student's t with S - 1 degrees of freedom and added. The spread of the per-seed means holds some of the examples'
    own noise, so the interval is rather wide than narrow. Of a single seed nothing is known of the spread: it is
    `paired_difference`. Grades that never differ say nothing of examples not seen: the interval then has the width
    that so many examples leave open, by `tango`.

    Raises: ValueError, if there is no run, or lengths disagree.
    Source: Student 1908, doi.org/10.1093/biomet/6.1.1 (few seeds); Efron & Tibshirani 1993, ch. 13 (examples).
    """
    differences = [_differences(a, b) for a, b in runs]
    if not differences or (same_examples and len({len(row) for row in differences}) > 1):
        lengths = [len(row) for row in differences]
        raise ValueError(f"pooled_difference: runs of {lengths} examples do not fit together.")
    if len(runs) == 1:
        only = paired_difference(*runs[0], seed=seed, resamples=resamples)
        return PooledDifference(
            only.difference, only.low, only.high, n=only.n, per_seed=(only.difference,), p_value=only.p_value
        )
    rng, seeds = np.random.default_rng(seed), len(differences)
    groups = [np.stack(differences)] if same_examples else [row[None] for row in differences]
    means = np.concatenate([_bootstrap_means(group, rng, resamples) for group in groups], axis=1).mean(axis=1)
    per_seed = tuple(float(row.mean()) for row in differences)
    means += np.std(per_seed, ddof=1) / math.sqrt(seeds) * rng.standard_t(seeds - 1, size=resamples)
    examples = len(differences[0]) if same_examples else sum(map(len, differences))
    low, high = _quantiles(means) if any(row.any() for row in differences) else tango(0, 0, examples)
    p = min(1.0, 2 * float(min((means <= 0).mean(), (means >= 0).mean())))
    return PooledDifference(
        difference=sum(per_seed) / seeds, low=low, high=high, n=sum(map(len, differences)), per_seed=per_seed, p_value=p
    )


def _quantiles(means: Floats) -> tuple[float, float]:
    """2.5 and 97.5 % quantiles, within [-1, 1]."""
    low, high = np.clip(np.quantile(means, [0.025, 0.975]), -1.0, 1.0)
    return float(low), float(high)


def _differences(a: ArrayLike, b: ArrayLike) -> Floats:
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(f"grades of shapes {first.shape} and {second.shape}: expected two equal, non-empty lists.")
    return first - second


def _bootstrap_means(rows: Floats, rng: np.random.Generator, resamples: int) -> Floats:
    """Means [resamples, rows] over examples drawn with replacement, the same examples for every row."""
    patterns, counts = np.unique(rows, axis=1, return_counts=True)
    n = rows.shape[1]
    means: Floats = rng.multinomial(n, counts / n, size=resamples) @ patterns.T / n
    return means
