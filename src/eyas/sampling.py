"""Drawing the next token, each row from its own random stream. Suffixes: B rows, V vocabulary, N draws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from eyas.errors import ModelError
from eyas.recipe import SamplingSpec

BLOCK = 256
"""Tokens per block of the two-level inverse CDF; about the square root of a vocabulary, where its cost is least."""
NUCLEUS = 512
"""Most probable tokens among which a nucleus is looked for first; one that is larger costs a sort of the vocabulary."""


def uniform_streams(seeds: Sequence[int], count: int) -> Tensor:
    """[B, count] uniforms in [0, 1), float64; a row depends on its own seed alone."""
    return torch.from_numpy(np.stack([np.random.Generator(np.random.Philox(seed)).random(count) for seed in seeds]))


def next_tokens(logits_BV: Tensor, uniforms_B: Tensor | None, *, sampling: SamplingSpec) -> tuple[Tensor, Tensor]:
    """(ids [B], log-probs [B] of the distribution drawn from): greedy without uniforms, else by inverse CDF.

    Temperature divides the logits; then the smallest set of tokens with mass top_p is kept (arXiv 1904.09751), with
    all that are as likely as its last one, and of it those with at least min_p times the probability of the likeliest
    one (arXiv 2407.01082), renormalised. The logits are overwritten.

    Raises: ModelError, if a row holds NaN or +inf.
    """
    if uniforms_B is None:
        return logits_BV.argmax(dim=-1), torch.zeros(len(logits_BV), device=logits_BV.device)
    scaled_BV = logits_BV.float()
    if sampling.temperature != 1:
        scaled_BV.div_(sampling.temperature)
    largest_B1 = scaled_BV.amax(dim=-1, keepdim=True)
    if not bool(largest_B1.isfinite().all()):
        raise ModelError("the model's logits are not finite, so no token can be drawn; a wider `dtype` may help.")
    weights_BV = scaled_BV.sub_(largest_B1).exp_()
    if sampling.top_p < 1:
        weights_BV.masked_fill_(weights_BV < _nucleus_floor(weights_BV, sampling.top_p), 0.0)
    if sampling.min_p > 0:
        weights_BV.masked_fill_(weights_BV < sampling.min_p, 0.0)
    ids_B = inverse_cdf(weights_BV, uniforms_B.unsqueeze(-1)).squeeze(-1)
    drawn_B = weights_BV.gather(-1, ids_B.unsqueeze(-1)).squeeze(-1)
    return ids_B, drawn_B.log() - weights_BV.sum(dim=-1).log()


def inverse_cdf(weights_BV: Tensor, uniforms_BN: Tensor) -> Tensor:
    """Ids [B, N] drawn in proportion to non-negative weights [B, V], float32, by uniforms in [0, 1), float64.

    Two levels, first a block of the vocabulary, then a token in it: only the blocks' sums and the chosen blocks are
    summed up in float64. A token of weight zero is never drawn.
    """
    rows, size = weights_BV.shape
    missing = -size % BLOCK  # padding by nothing would copy
    padded = (torch.nn.functional.pad(weights_BV, (0, missing)) if missing else weights_BV).view(rows, -1, BLOCK)
    sums = padded.sum(dim=-1).double()
    outer = sums.cumsum(dim=-1)
    total = outer[:, -1:]
    targets = (uniforms_BN.to(outer.device) * total).minimum(total.nextafter(torch.zeros_like(total)))
    block_BN = torch.searchsorted(outer, targets, right=True)
    before_BN = (outer - sums).gather(-1, block_BN)
    chosen = padded.gather(1, block_BN.unsqueeze(-1).expand(-1, -1, BLOCK)).double().cumsum(dim=-1)
    inner = (targets - before_BN).unsqueeze(-1).minimum(chosen[..., -1:] * (1 - 1e-12))
    within = torch.searchsorted(chosen, inner.clamp(min=0.0), right=True).squeeze(-1)
    return block_BN * BLOCK + within.clamp(max=BLOCK - 1)


def _nucleus_floor(weights_BV: Tensor, top_p: float) -> Tensor:
    """Weight [B, 1] of the last token of the smallest set that has the mass top_p."""
    wanted_B1 = top_p * weights_BV.sum(dim=-1, keepdim=True)
    for count in (NUCLEUS, weights_BV.shape[-1]):
        ordered = weights_BV.topk(min(count, weights_BV.shape[-1]), dim=-1).values
        reached = ordered.cumsum(dim=-1) >= wanted_B1
        if bool(reached[:, -1].all()):
            break
    last_B1 = reached.int().argmax(dim=-1, keepdim=True)
    last_B1 = torch.where(reached[:, -1:], last_B1, ordered.shape[-1] - 1)
    return ordered.gather(-1, last_B1)
