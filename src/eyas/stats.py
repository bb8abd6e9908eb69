"""Intervals for accuracies and paired comparisons of two models on the same examples. numpy only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Z_95 = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""
RESAMPLES = 10_000
"""Bootstrap resamples: the 2.5 % quantile then rests on 250 of them (Efron & Tibshirani 1993, §13.3, ask for 1,000)."""
BISECTIONS = 60
"""Of Tango's limits: an interval of length 2 is halved to 2^-59, below float64's resolution."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Share:
    """A share over `n` examples with its 95 % Wilson interval."""

    value: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float]:
        """As in `summary.json`: value, low, high, n."""
        return asdict(self)


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


def wilson(successes: float, n: float) -> tuple[float, float]:
    """95 % Wilson score interval of a proportion, without continuity correction.

    Not a bound for the difference of two models: for that see `paired_difference`.

    Args:
        successes: right answers; a fraction where grades are partial, which makes the interval conservative.
        n: graded answers, or what they are worth (`share_of_examples`).

    Returns: (low, high), within [0, 1]; (0, 1) where n is 0.
    Raises: ValueError, unless 0 <= successes <= n.
    Source: Wilson 1927, doi.org/10.1080/01621459.1927.10502953; Brown, Cai & DasGupta 2001 recommend it.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"wilson: {successes} successes of {n}; expected 0 <= successes <= n.")
    if n == 0:
        return 0.0, 1.0
    share, z2 = successes / n, Z_95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == n else centre + half)


def share_of(flags: Sequence[bool]) -> Share:
    """The share of true flags with its interval.

    Raises: ValueError, if there are none.
    """
    if not flags:
        raise ValueError("share_of: no answers, so there is no share of right ones.")
    right = sum(flags)
    low, high = wilson(right, len(flags))
    return Share(value=right / len(flags), low=low, high=high, n=len(flags))


def share_of_examples(values: Sequence[float], *, answers: int) -> Share:
    """Mean of one value per example, 0 to 1, each the mean of several answers, with an interval clustered by example.

    Answers to one example are alike, so `answers` of them are worth fewer independent ones: as many as would have the
    variance that the examples' values show, at least the number of examples and at most all. Wilson's interval of
    that many. With one answer an example it is Wilson's own.

    Args:
        values: per example; an accuracy over its samples, or pass@k.
        answers: graded answers behind them.

    Raises: ValueError, if there are no examples or fewer answers than examples.
    Source: effective sample size in Wilson's interval, Franco et al. 2019, doi.org/10.1093/jssam/smy019; standard
    errors clustered by question, Miller 2024, arXiv 2411.00640, section 2.2.
    """
    n = len(values)
    if not n or answers < n:
        raise ValueError(f"share_of_examples: {answers} answers to {n} examples; expected at least one to each.")
    mean = math.fsum(values) / n
    worth = float(n)
    if 0 < mean < 1 and n > 1:
        variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
        worth = min(answers, max(n, n * mean * (1 - mean) / variance if variance else math.inf))
    low, high = wilson(min(worth, math.fsum(values) * (worth / n)), worth)  # rounding must not go beyond all
    return Share(value=mean, low=low, high=high, n=n)


def pass_at_k(n: int, right: int, k: int) -> float:
    """Chance that at least one of k samples is right, from n of which `right` were: 1 - C(n - right, k) / C(n, k).

    Not 1 - (1 - right/n)^k, which is biased low.

    Raises: ValueError, unless 0 <= right <= n and 1 <= k <= n.
    Source: Chen et al. 2021, arXiv 2107.03374, equation 1.
    """
    if not (0 <= right <= n and 1 <= k <= n):
        raise ValueError(f"pass_at_k: {right} of {n} samples right, k = {k}; expected k within 1 to {n}.")
    return 1 - math.comb(n - right, k) / math.comb(n, k)


def mcnemar_exact(wins: int, losses: int) -> float:
    """Two-sided exact McNemar p: twice the smaller tail of Binomial(wins + losses, 1/2), at most 1.

    Ties carry no evidence and are not counted. 1 where there are only ties.

    Source: McNemar 1947, doi.org/10.1007/BF02295996, in its exact (binomial) form.
    """
    n, smaller = wins + losses, min(wins, losses)
    term = tail = 1
    for k in range(smaller):
        term = term * (n - k) // (k + 1)
        tail += term
    return min(1.0, 2 * tail / (1 << n))


def tango(wins: int, losses: int, n: int) -> tuple[float, float]:
    """95 % score interval of (wins - losses) / n, the difference of two proportions over the same n examples.

    Unlike the bootstrap's or Wald's it has a width on both sides where all pairs that differ, or all examples, go one
    way: with none of n it is ±z² / (n + z²). It is asymptotic: it may exclude 0 where `mcnemar_exact` is above 0.05.

    Returns: (low, high), within [-1, 1].
    Raises: ValueError, unless there are examples, and at least as many as wins and losses.
    Source: Tango 1998, doi.org/10.1002/(SICI)1097-0258(19980430)17:8<891::AID-SIM780>3.0.CO;2-B.
    """
    if n < 1 or min(wins, losses) < 0 or wins + losses > n:
        raise ValueError(f"tango: {wins} wins and {losses} losses of {n} examples; expected no more than examples.")
    return -_tango_high(losses, wins, n), _tango_high(wins, losses, n)


def _tango_high(wins: int, losses: int, n: int) -> float:
    """The greatest difference that the score test does not reject, by bisection above the one that was found."""
    inside, outside = (wins - losses) / n, 1.0
    for _ in range(BISECTIONS):
        middle = (inside + outside) / 2
        if (wins - losses - n * middle) ** 2 > Z_95**2 * _score_variance(wins, losses, n, difference=middle):
            outside = middle
        else:
            inside = middle
    return outside


def _score_variance(wins: int, losses: int, n: int, *, difference: float) -> float:
    """Variance of wins - losses if the true difference is this, at the likeliest share of losses.

    That share q solves 2n q² + B q - losses d (1 - d) = 0 with B = (2n - wins + losses) d - wins - losses.
    """
    b = (2 * n - wins + losses) * difference - wins - losses
    root = math.sqrt(max(0.0, b * b + 8 * n * losses * difference * (1 - difference)))
    return n * ((root - b) / (2 * n) + difference * (1 - difference))


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
