"""Which sequences are trained on, and why the others are not. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from eyas.recipe import DistillSelectionSpec, SelectionSpec
from eyas.records import SequenceRecord

NGRAM = 10
"""Token ids of a run that counts as repeated: the longest of Gopher's duplicate n-grams (arXiv 2112.11446, table A1),
so that numbers and short formulas may recur: of 8,000 traces of the embedded teacher none repeats a run of 8."""


@dataclass(frozen=True)
class Nll:
    """How likely a model finds a completion, with its prompt and without: mean negative log-likelihood in nats.

    Over tokens 2..n on both sides, since the first has no context without the prompt; None for a single token.
    """

    conditional: float | None
    unconditional: float | None


@dataclass(frozen=True)
class Selection:
    """What `select` decided."""

    kept: tuple[int, ...]
    """Indices of the sequences to train on, ascending."""
    dropped: Counter[str]
    """Reason -> sequences left out for it; with `kept` they add up to all."""


def select(
    sequences: Sequence[SequenceRecord], *, spec: SelectionSpec, delta_ifds: Sequence[float | None] | None = None
) -> Selection:
    """Apply the filters in the order of the spec's fields.

    Args:
        delta_ifds: per sequence, None where it is not defined; needed if the spec has a window for it.

    Raises: ValueError, if the window has no values to look at.
    """
    window = spec.delta_ifd if isinstance(spec, DistillSelectionSpec) else None
    if window is not None and (delta_ifds is None or len(delta_ifds) != len(sequences)):
        found = "none" if delta_ifds is None else len(delta_ifds)
        raise ValueError(f"select: a window for delta-IFD needs one value per sequence ({len(sequences)}), got {found}")
    kept: list[int] = []
    dropped: Counter[str] = Counter()
    for index, sequence in enumerate(sequences):
        reason = _own_reason(sequence, spec)
        if reason is None and window is not None and delta_ifds is not None:
            reason = _outside(window, delta_ifds[index])
        if reason is None:
            kept.append(index)
        else:
            dropped[reason] += 1
    return Selection(kept=tuple(kept), dropped=dropped)


def _own_reason(sequence: SequenceRecord, spec: SelectionSpec) -> str | None:
    if spec.truncated == "drop" and sequence.finish_reason == "length":
        return "truncated"
    if spec.repetition is not None and repeated_share(sequence.completion_ids) > spec.repetition:
        return "repetitive"
    if spec.grade == "all":
        return None
    if sequence.grade is None:
        return "not_graded"
    correct = sequence.grade >= 1.0
    if correct == (spec.grade == "correct"):
        return None
    return "graded_correct" if correct else "graded_wrong"


def _outside(window: tuple[float, float], delta: float | None) -> str | None:
    low, high = window
    if delta is None:
        return "delta_ifd_undefined"
    if delta < low:
        return f"delta_ifd_below_{low:g}"
    return f"delta_ifd_above_{high:g}" if delta > high else None


def repeated_share(ids: Sequence[Hashable], *, n: int = NGRAM) -> float:
    """Share of the ids that stand in a run of `n` which began earlier in the same sequence too; 0 for short ones.

    A loop of period p that runs for r periods has about 1 - 1/r, and one token over and over nearly 1. As Gopher's
    duplicate n-grams (arXiv 2112.11446, section A1.1) but of ids instead of words weighted by their characters, and
    without the first occurrence, as datatrove counts. Not a compression ratio (Pangu's ZIP, arXiv 2505.22375, or
    Whisper's 2.4, arXiv 2212.04356): that one rises with length alone.
    """
    if len(ids) <= n:
        return 0.0
    seen: set[tuple[Hashable, ...]] = set()
    repeated = end = 0
    for start in range(len(ids) - n + 1):
        gram = tuple(ids[start : start + n])
        if gram in seen:
            repeated += start + n - max(end, start)
            end = start + n
        seen.add(gram)
    return repeated / len(ids)


def later_nll(token_logprobs_T: ArrayLike) -> float | None:
    """Mean negative log-likelihood (nats) of tokens 2..n, None if there is only one."""
    later = np.asarray(token_logprobs_T, dtype=np.float64)[1:]
    return float(-later.mean()) if len(later) else None


def ifd(nll: Nll) -> float | None:
    """Instruction-following difficulty PPL(y | x) / PPL(y), a ratio of perplexities over tokens 2..n of y.

    Above 1 the prompt makes the completion less likely. None where it is not defined: a completion of one token, or
    a token of probability 0. In this form from Superfiltering (arXiv 2402.00530); the paper that named
    it (arXiv 2308.12032) divides the mean negative log-likelihoods instead. Which of them NPD's delta-IFD
    (arXiv 2605.05940) takes is not known to us, so its threshold 0.8 may not mean the same here.
    """
    if nll.conditional is None or nll.unconditional is None:
        return None
    difference = nll.conditional - nll.unconditional
    return math.exp(min(difference, 700.0)) if math.isfinite(difference) else None


def delta_ifd(*, teacher: Nll, student: Nll) -> float | None:
    """IFD under the teacher minus IFD under the student (arXiv 2605.05940), None where either is not defined.

    Below 0 the prompt helps the teacher more than the student ("degenerate zone"); far above, the student is at ease
    with what the teacher finds out of place ("cognitive disconnect").
    """
    ours, theirs = ifd(student), ifd(teacher)
    return None if ours is None or theirs is None else theirs - ours
