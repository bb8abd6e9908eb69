"""How much each decoder layer matters: distances between what goes into layers and what comes out, and who goes first.

All of it is computed in float64: layers that change next to nothing are the ones in question, and in float32 the angle
between two equal vectors can read 2e-4 instead of 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def cosine(x_TD: Tensor, y_TD: Tensor) -> Tensor:
    """Cosine of the angle between x and y at each token, float64 [T], within [-1, 1]; 0 where one of them is 0."""
    x_TD, y_TD = x_TD.double(), y_TD.double()
    norms_T = (x_TD.norm(dim=-1) * y_TD.norm(dim=-1)).clamp(min=torch.finfo(torch.float64).tiny)
    cosine_T: Tensor = (x_TD * y_TD).sum(dim=-1) / norms_T
    return cosine_T.clamp(-1.0, 1.0)


def angular_distance(x_TD: Tensor, y_TD: Tensor) -> Tensor:
    """arccos(cos(x, y)) / pi at each token, float64 [T] within [0, 1]. It sees directions only, no lengths.

    Source: arXiv 2403.17887 ("The Unreasonable Ineffectiveness of the Deeper Layers"), equation 7.
    """
    return torch.arccos(cosine(x_TD, y_TD)) / torch.pi


def block_distances(states_LD: Tensor, *, size: int) -> Tensor:
    """Angular distance across each block of `size` consecutive layers, at one token: float64 [layers - size + 1].

    `states_LD` are the residual stream's vectors before every layer and after the last one, layers + 1 rows; entry l
    of the result is d(x^(l), x^(l+size)), what removing the layers l … l+size-1 would bridge.

    Source: arXiv 2403.17887, section 3.2, where the token is a sequence's final one and d is summed over sequences.
    """
    return angular_distance(states_LD[: len(states_LD) - size], states_LD[size:])


def block_influence(x_TD: Tensor, y_TD: Tensor) -> Tensor:
    """1 - cos(x, y) at each token, float64 [T]; its mean over all tokens of all sequences is a layer's BI.

    Source: ShortGPT, arXiv 2403.03853, its Block Influence (BI).
    """
    return 1.0 - cosine(x_TD, y_TD)


def nearest_block(distances: Sequence[float], *, size: int) -> tuple[int, ...]:
    """Layers of the block with the least distance, the first such one; `distances` as in `block_distances`."""
    start = min(range(len(distances)), key=lambda index: (distances[index], index))
    return tuple(range(start, start + size))


def least_important(importance: Sequence[float], *, count: int) -> tuple[int, ...]:
    """The `count` layers of least importance, ascending; of equal ones those nearer the input."""
    ranked = sorted(range(len(importance)), key=lambda index: (importance[index], index))
    return tuple(sorted(ranked[:count]))


def evenly_spaced(layers: int, *, count: int) -> tuple[int, ...]:
    """`count` of the layers, ascending, evenly spaced, the first and the last among them; of one layer the first."""
    return tuple(sorted({round(index * (layers - 1) / max(1, count - 1)) for index in range(count)}))
