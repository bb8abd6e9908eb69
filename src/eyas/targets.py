"""What a student is taught of a teacher's distribution: here the ids that are drawn from it."""

from __future__ import annotations

import torch
from torch import Tensor

from eyas.sampling import inverse_cdf


def draw_targets(weights_NV: Tensor, uniforms_NS: Tensor) -> tuple[Tensor, Tensor]:
    """Ids drawn with replacement, and how often each one was: int64 [N, S], the oftenest first.

    Drawn in proportion to non-negative weights, one draw per uniform in [0, 1). Rows with fewer different ids are
    padded with id 0, drawn 0 times. E[count / S] is the teacher's distribution, so that a student which learns from
    the shares is taught without bias; learning from the top-k alone is not (arXiv 2503.16870, section 3). Not that
    paper's importance sampling: the proposal is the target itself.
    """
    drawn_NS = inverse_cdf(weights_NV, uniforms_NS).sort(dim=-1).values
    first_NS = torch.ones_like(drawn_NS, dtype=torch.bool)
    first_NS[:, 1:] = drawn_NS[:, 1:] != drawn_NS[:, :-1]
    slot_NS = first_NS.cumsum(dim=-1) - 1
    counts_NS = torch.zeros_like(drawn_NS).scatter_add_(-1, slot_NS, torch.ones_like(drawn_NS))
    ids_NS = torch.zeros_like(drawn_NS).scatter_(-1, slot_NS, drawn_NS)
    counts_NS, order_NS = counts_NS.sort(dim=-1, descending=True, stable=True)
    return ids_NS.gather(-1, order_NS), counts_NS
