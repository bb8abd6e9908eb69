"""How near an exported file's distributions are to the model's. Suffixes: T positions, V vocabulary, K top-k."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eyas.errors import ExportError, ShapeError


@dataclass(frozen=True)
class Likeness:
    """One prompt's comparison of an exported file (the runtime's top-k) with the model (all its log-probs), in nats."""

    errors_TK: NDArray[np.float32]
    """|Δ log-prob| of each of the runtime's top-k."""
    kl_T: NDArray[np.float64]
    """KL(model || file) with all that is outside the top-k as one outcome: at most the KL over the vocabulary."""
    agreed: int
    """Leading greedy tokens that are the same."""
    tokens: int
    """Greedy tokens compared."""
    gap_nats: float
    """By how much the model prefers its own token where the first one differs; 0 where none does."""


@dataclass(frozen=True)
class Parity:
    """All prompts together."""

    positions: int
    max_error_nats: float
    mean_error_nats: float
    kl_nats: float
    """Mean over positions."""
    greedy_agreed: int
    greedy_tokens: int
    max_gap_nats: float
    """A near tie may fall either way; a large gap where the first token differs is another model."""


def likeness(
    reference_TV: NDArray[np.float32],
    ids_TK: NDArray[np.int32],
    logprobs_TK: NDArray[np.float32],
    *,
    greedy: Sequence[int],
    found: Sequence[int],
) -> Likeness:
    """Compare a runtime with a model on one sequence, whose last len(greedy) tokens are the model's greedy ones.

    `reference_TV` are the model's log-probs after every token but the last, `ids_TK` and `logprobs_TK` the runtime's
    likeliest there, `found` the runtime's own greedy tokens after the same prompt.

    Raises: ShapeError, if the positions differ in number, or `found` and `greedy` do in length.
    """
    if not len(reference_TV) == len(ids_TK) == len(logprobs_TK) or len(found) != len(greedy):
        raise ShapeError(
            f"{len(reference_TV)} positions and {len(greedy)} greedy tokens of the model, {len(ids_TK)} and "
            f"{len(found)} of the file: give both the same ids and the same max_tokens."
        )
    expected_TK = np.take_along_axis(reference_TV, ids_TK.astype(np.int64), axis=-1)
    agreed = next((i for i, pair in enumerate(zip(greedy, found, strict=True)) if pair[0] != pair[1]), len(greedy))
    gap = 0.0
    if agreed < len(greedy):
        row_V = reference_TV[len(reference_TV) - len(greedy) + agreed]
        gap = float(row_V[greedy[agreed]] - row_V[found[agreed]])
    return Likeness(np.abs(expected_TK - logprobs_TK), _coarse_kl(expected_TK, logprobs_TK), agreed, len(greedy), gap)


def _coarse_kl(expected_TK: NDArray[np.float32], logprobs_TK: NDArray[np.float32]) -> NDArray[np.float64]:
    """Σ p·log(p/q) over the top-k and over the rest as one outcome, [T]."""
    p_TK, q_TK = np.exp(expected_TK.astype(np.float64)), np.exp(logprobs_TK.astype(np.float64))
    tiny = np.finfo(np.float64).tiny
    p_rest_T = np.maximum(1 - p_TK.sum(axis=-1), tiny)
    q_rest_T = np.maximum(1 - q_TK.sum(axis=-1), np.finfo(np.float32).eps)  # q is known to float32's rounding only
    inside_T = (p_TK * (expected_TK.astype(np.float64) - logprobs_TK)).sum(axis=-1)
    outside_T = p_rest_T * np.log(p_rest_T / q_rest_T)
    return np.asarray(inside_T + outside_T)


def parity_of(prompts: Sequence[Likeness]) -> Parity:
    """The worst error and gap, the mean error and divergence, the sum of greedy tokens.

    Raises: ShapeError, without a prompt.
    """
    if not prompts:
        raise ShapeError("no prompts, so there is nothing to compare. Give at least one.")
    errors = np.concatenate([prompt.errors_TK.ravel() for prompt in prompts])
    kls = np.concatenate([prompt.kl_T for prompt in prompts])
    return Parity(
        positions=len(kls),
        max_error_nats=float(errors.max()),
        mean_error_nats=float(errors.mean()),
        kl_nats=float(kls.mean()),
        greedy_agreed=sum(prompt.agreed for prompt in prompts),
        greedy_tokens=sum(prompt.tokens for prompt in prompts),
        max_gap_nats=max(prompt.gap_nats for prompt in prompts),
    )


@dataclass(frozen=True)
class Limits:
    """What a file may differ from its model by. A trained model's tail errs most, where it matters least: see KL."""

    error_nats: float
    """Largest log-prob error of any of the top-k."""
    kl_nats: float
    gap_nats: float
    """Largest preference of the model for its own token where a greedy token differs; a near tie may."""


def require_parity(
    parity: Parity, *, limits: Limits, what: str = "the file", advice: str = "Take a finer format."
) -> None:
    """Pass a file that is within all limits; an error calls it `what`, and ends with `advice`.

    Raises: ExportError with the figures.
    """
    found = (parity.max_error_nats, parity.kl_nats, parity.max_gap_nats)
    allowed = (limits.error_nats, limits.kl_nats, limits.gap_nats)
    if all(value <= limit for value, limit in zip(found, allowed, strict=True)):
        return
    greedy = (
        f", {parity.greedy_agreed} of {parity.greedy_tokens} greedy tokens agree before the first difference, which "
        f"the model minds by {found[2]:.4f} nats (allowed {allowed[2]:g})"
    )
    raise ExportError(
        f"{what} is another model than the one it was made from: log-probs up to {found[0]:.4f} nats off (allowed "
        f"{allowed[0]:g}), mean KL {found[1]:.2e} nats over {parity.positions} positions (allowed {allowed[1]:g})"
        f"{greedy if parity.greedy_tokens else ''}. {advice}"
    )
