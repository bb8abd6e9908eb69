"""The output head, and its logits a chunk of tokens at a time: nothing else in eyas multiplies by the vocabulary."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from eyas.errors import ShapeError

CHUNK_ELEMENTS = 2**25
"""Logits held at once (128 MiB in float32); larger work is cut along N. Fewer cost time where the vocabulary is large,
because every chunk reads and writes the whole gradient of the weight."""
TILE = 16
"""Rows that CPU matrix products work on at once; a chunk of an uneven number costs up to half more."""
CAST_ELEMENTS = 2**22
"""Elements of a product that are held in a narrow type before they are added in a wide one (8 MiB in bfloat16)."""


@dataclass(frozen=True)
class Head:
    """Hidden states [N, D] to logits [N, V]: `soft_cap * tanh(scale * (h W^T + b) / soft_cap)`.

    Read the weight inside the model's forward pass, each time: that is where sharded weights are whole (FSDP2), and a
    tied one is the embedding's. Not a module: hooks and adapters of the output layer do not run.

    Raises: ShapeError, if the weight is no matrix or the bias does not have its rows.
    """

    weight_VD: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    soft_cap: float | None = None
    """Gemma 2's final soft cap (arXiv 2408.00118, section 2); none for most models."""
    vocabulary: int | None = None
    """Rows of the weight that are used, where a vocabulary is padded; all by default."""

    def __post_init__(self) -> None:
        rows = self.weight_VD.shape[0]
        if self.weight_VD.ndim != 2 or (self.bias_V is not None and self.bias_V.shape != (rows,)):
            found = [None if part is None else tuple(part.shape) for part in (self.weight_VD, self.bias_V)]
            raise ShapeError(f"a head needs weight [V, D] and bias [V], found {found[0]} and {found[1]}.")

    @property
    def size(self) -> int:
        """V: how many logits a token has."""
        rows = int(self.weight_VD.shape[0])
        return rows if self.vocabulary is None else min(rows, self.vocabulary)

    def __call__(self, hidden_ND: Tensor) -> Tensor:
        """All logits at once, float32 (float64 for float64 hidden states), without gradient; for few tokens."""
        weight_VD = narrow_weight(self)
        out_NV = hidden_ND.new_empty(len(hidden_ND), self.size, dtype=statistics_dtype(hidden_ND))
        return logits_into(out_NV, hidden_ND.detach(), weight_VD, head=self)


def statistics_dtype(hidden_ND: Tensor) -> torch.dtype:
    """float64 for float64 hidden states, else float32: what logits and everything after them are computed in."""
    return torch.float64 if hidden_ND.dtype == torch.float64 else torch.float32


def narrow_weight(head: Head) -> Tensor:
    """The used rows of the weight in the type that matrix products run in: autocast's where it is on, else its own."""
    weight_VD = head.weight_VD.detach()[: head.size]
    device = weight_VD.device.type
    if torch.is_autocast_enabled(device) and weight_VD.dtype != torch.float64:
        return weight_VD.to(torch.get_autocast_dtype(device))
    return weight_VD


def logits_into(out_NV: Tensor, hidden_ND: Tensor, weight_VD: Tensor, *, head: Head) -> Tensor:
    """Fill `out_NV` with the logits; the product runs in the weight's type."""
    narrow_ND = hidden_ND.to(weight_VD.dtype)
    if out_NV.dtype == weight_VD.dtype:
        torch.mm(narrow_ND, weight_VD.T, out=out_NV)
    else:
        out_NV.copy_(torch.mm(narrow_ND, weight_VD.T))
    return finished(out_NV, head=head)


def finished(out_NV: Tensor, *, head: Head) -> Tensor:
    """What the head does to its product with the weight, in place."""
    if head.bias_V is not None:
        out_NV.add_(head.bias_V.detach()[: head.size])
    if head.scale != 1.0:
        out_NV.mul_(head.scale)
    if head.soft_cap is not None:
        out_NV.div_(head.soft_cap).tanh_().mul_(head.soft_cap)
    return out_NV


def chunks(
    hidden_ND: Tensor, *, head: Head, weight_VD: Tensor | None = None, buffers: int = 1
) -> Iterator[tuple[slice, Tensor]]:
    """Rows and their logits, at most CHUNK_ELEMENTS of them over `buffers` copies, without gradient.

    Chunks are about equally large. Each reuses the memory of the one before: take what is needed of it before the next
    one, and change it in place at will. `weight_VD` is `narrow_weight(head)`, for a caller that needs it as well.
    """
    if weight_VD is None:
        weight_VD = narrow_weight(head)
    count = len(hidden_ND)
    rows = _chunk_rows(count, most=max(1, CHUNK_ELEMENTS // (head.size * buffers)))
    buffer_NV = hidden_ND.new_empty(min(rows, count), head.size, dtype=statistics_dtype(hidden_ND))
    for start in range(0, count, rows):
        piece = slice(start, min(start + rows, count))
        out_NV = buffer_NV[: piece.stop - piece.start]
        yield piece, logits_into(out_NV, hidden_ND[piece].detach(), weight_VD, head=head)


def _chunk_rows(count: int, *, most: int) -> int:
    """Rows of a chunk: as few chunks as possible, about equally large, in whole tiles of a matrix product."""
    pieces = -(-count // most)
    even = -(-count // max(1, pieces))
    tiled = -(-even // TILE) * TILE
    return max(1, tiled if tiled <= most else even)
