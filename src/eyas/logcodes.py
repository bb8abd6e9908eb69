"""Log-probabilities as small integers: the arithmetic of the teacher cache, without files and without torch.

A code c stands for the log-probability -c * step, before a token's entries and its tail are shifted together so that
they add up to one. Every log-probability then is off by at most `step`, and with q what is decoded from p

    KL(p || q) = log E_p[e^x] - E_p[x] <= step^2 / 8,    x in [-step/2, step/2] the error before the shift

(Hoeffding's lemma), step^2 / 24 on average over evenly spread errors, which is 2.0e-3 and 6.5e-4 nats for STEP. The
error in logarithms is the same for a likely id and for an unlikely one, so that divergences which weigh by the
student bear it too; a code in probabilities would not do. Not lossless: repeated coding of decoded values moves them.

Suffixes: T tokens, E entries of all tokens one after another.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

STEP = 1 / 8
"""Nats between codes of entries and tails: the coarsest power of two whose mean loss is below 1e-3 nats for every
teacher; 1/4 would save one bit an entry and lose four times as much (docs/cache.md)."""
TOKEN_STEP = 1 / 64
"""Nats between codes of the completion token's own log-probability, which has no others to be averaged with: off by at
most 1/128 nat."""
LEAST = 255
"""Code of an entry of e^-31.9 or less."""
NO_TAIL = 255
"""Code of a tail without any mass; LEAST_TAIL that of one of e^-31.75 or less."""
LEAST_TAIL = 254

Bytes = NDArray[np.uint8]
Shorts = NDArray[np.uint16]
Ints = NDArray[np.int32]
Floats = NDArray[np.float32]


def entry_codes(logprobs_E: Floats, *, step: float = STEP) -> Bytes:
    """Codes of entries, 0 to LEAST."""
    codes: Bytes = np.clip(np.rint(-logprobs_E / step), 0, LEAST).astype(np.uint8)
    return codes


def tail_codes(tail_T: Floats, *, step: float = STEP) -> Bytes:
    """Codes of tails, 0 to LEAST_TAIL; NO_TAIL for -inf alone."""
    codes: Bytes = np.clip(np.rint(-tail_T / step), 0, LEAST_TAIL).astype(np.uint8)
    codes[np.isneginf(tail_T)] = NO_TAIL
    return codes


def decode(codes_E: Bytes, tail_codes_T: Bytes, counts_T: Ints, *, step: float = STEP) -> tuple[Floats, Floats]:
    """Log-probabilities of the entries and of the tail, each token's entries and tail adding up to one."""
    logprobs_E = codes_E * -step
    tail_T = np.where(tail_codes_T == NO_TAIL, -np.inf, tail_codes_T * -step)
    if len(counts_T):
        starts = np.cumsum(counts_T) - counts_T
        shift_T = np.log(np.add.reduceat(np.exp(logprobs_E), starts) + np.exp(tail_T))
        logprobs_E -= np.repeat(shift_T, counts_T)
        tail_T -= shift_T
    return logprobs_E.astype(np.float32), tail_T.astype(np.float32)


def token_codes(logprobs_T: Floats, *, step: float = TOKEN_STEP) -> Shorts:
    """Codes of the completion tokens' own log-probabilities, 0 to 65535 (-1024 nats and below)."""
    codes: Shorts = np.clip(np.rint(-logprobs_T / step), 0, 65535).astype(np.uint16)
    return codes


def draw_counts(logprobs_E: Floats, *, samples: int) -> Shorts:
    """How often each id was drawn, exactly, from log(count / samples)."""
    draws: Shorts = np.rint(np.exp(logprobs_E.astype(np.float64)) * samples).astype(np.uint16)
    return draws


def decode_draws(draws_E: Shorts, *, samples: int) -> Floats:
    """log(count / samples)."""
    logprobs: Floats = np.log(draws_E / samples).astype(np.float32)
    return logprobs
