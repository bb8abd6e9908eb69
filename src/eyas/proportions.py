"""Shares of right answers, closed-form: their intervals, pass@k, and tests of two on the same examples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

Z_95 = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""
BISECTIONS = 60
"""Of Tango's limits: an interval of length 2 is halved to 2^-59, below float64's resolution."""


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
