"""Drawing the next token, each row from its own random stream."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from eyas.recipe import SamplingSpec


def uniform_streams(seeds: Sequence[int], count: int) -> Tensor:
    """[B, count] uniforms in [0, 1), float64; a row depends on its own seed alone."""
    return torch.from_numpy(np.stack([np.random.Generator(np.random.Philox(seed)).random(count) for seed in seeds]))


def next_tokens(logits_BV: Tensor, uniforms_B: Tensor | None, *, sampling: SamplingSpec) -> tuple[Tensor, Tensor]:
    """(ids [B], log-probs [B] of the distribution drawn from): greedy without uniforms, else by inverse CDF.

    Temperature divides the logits, then the smallest set of tokens with mass top_p is kept (arXiv 1904.09751).
    """
    if uniforms_B is None:
        return logits_BV.argmax(dim=-1), torch.zeros(len(logits_BV), device=logits_BV.device)
    logprobs_BV = torch.log_softmax(logits_BV.float() / sampling.temperature, dim=-1)
    if sampling.top_p < 1:
        logprobs_BV = _nucleus(logprobs_BV, sampling.top_p)
    cumulative_BV = logprobs_BV.exp().double().cumsum(dim=-1)
    targets_B1 = (uniforms_B.to(cumulative_BV.device) * cumulative_BV[:, -1]).unsqueeze(-1)
    ids_B1 = torch.searchsorted(cumulative_BV, targets_B1, right=True).clamp(max=logits_BV.shape[-1] - 1)
    return ids_B1.squeeze(-1), logprobs_BV.gather(-1, ids_B1).squeeze(-1)


def _nucleus(logprobs_BV: Tensor, top_p: float) -> Tensor:
    ordered, ids = logprobs_BV.sort(dim=-1, descending=True)
    before = ordered.exp().cumsum(dim=-1) - ordered.exp()
    ordered = ordered.masked_fill(before >= top_p, -torch.inf)
    kept = torch.full_like(logprobs_BV, -torch.inf).scatter(-1, ids, ordered)
    return torch.log_softmax(kept, dim=-1)
