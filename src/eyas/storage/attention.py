"""Block-diagonal causal attention for packed rows: each sequence attends to itself, and no [T, T] mask is built.

A packed row holds whole sequences one after another, told apart by positions that restart at 0. Its linear layers see
one row without any padding; its attention runs sequence by sequence, so that it costs the sum of the squared lengths.
The function is registered with transformers' AttentionInterface and AttentionMaskInterface
(https://huggingface.co/docs/transformers/attention_interface), hence works in every model that takes its attention from
there; storage/probe.py finds out whether a model does. It is neither flash attention's varlen kernel nor transformers'
own packing, whose mask is quadratic in the row (both of which are for accelerators, see `packed_implementation`).

Suffixes: B batch (1 here), H heads, T tokens of the row, t of a sequence, n sequences of equal length, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.utils.import_utils import is_flash_attn_2_available

from eyas.errors import ModelError

NAME = "eyas_packed"
FLASH = "flash_attention_2"
_lengths: list[tuple[int, ...]] = []
"""Lengths of the sequences of the row in hand, for the mask function; transformers hands it no positions."""


def packed_implementation(device: torch.device, dtype: torch.dtype) -> str | None:
    """Which attention packed rows use that are computed in `dtype`: ours on CPU; elsewhere flash attention where it is
    installed and takes the type, which float32 is not; else the model's own (None), for which transformers makes a
    block mask from the positions, quadratic in the row."""
    if device.type == "cpu":
        return NAME
    return FLASH if dtype in (torch.bfloat16, torch.float16) and is_flash_attn_2_available() else None


@contextmanager
def packed_attention(model: PreTrainedModel, position_ids_1T: Tensor) -> Iterator[None]:
    """Within it `model`, a decoder, keeps apart the sequences of one packed row, whatever attention it has else."""
    config = model.config
    kind = position_ids_1T.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else model.dtype
    before, chosen = config._attn_implementation, packed_implementation(position_ids_1T.device, dtype)
    starts = (position_ids_1T[0] == 0).nonzero().flatten().tolist()
    ends = [*starts[1:], position_ids_1T.shape[1]]
    _lengths.append(tuple(end - start for start, end in zip(starts, ends, strict=True)))
    config._attn_implementation = chosen or before
    try:
        yield
    finally:
        config._attn_implementation = before
        _lengths.pop()


def sequence_mask(
    *, q_length: int, kv_length: int, device: torch.device, local_size: int | None = None, use_vmap: bool = False,
    attention_mask: Tensor | None = None, **_rest: Any,
) -> Tensor:  # fmt: skip
    """What stands in for a mask: int64 [window or 0, length of the first sequence, of the second, …].

    Raises: ModelError, for rows with padding, a cache, or a mask pattern that is neither causal nor a sliding window.
    """
    if use_vmap or attention_mask is not None or kv_length != q_length or sum(_lengths[-1]) != q_length:
        raise ModelError("packed rows need plain causal attention, without padding or cache.")
    return torch.tensor([local_size or 0, *_lengths[-1]])


def sequence_attention(
    module: nn.Module,
    query_BHTD: Tensor,
    key_BHTD: Tensor,
    value_BHTD: Tensor,
    attention_mask: Tensor,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **_rest: Any,
) -> tuple[Tensor, None]:
    """Attention output [B, T, H, D] of a row, sequence by sequence; neighbours of equal length in one call.

    Raises: ModelError, for learned sinks and position biases, and for local attention that is no sliding window.
    """
    window, *lengths = attention_mask.tolist()
    if s_aux is not None or position_bias is not None or (window and window != sliding_window):
        raise ModelError("packed rows know neither attention sinks, nor position biases, nor chunked attention.")
    runs = [(length, len(list(same))) for length, same in groupby(lengths)]
    sizes = [length * count for length, count in runs]
    pieces = []
    parts = (torch.split(states, sizes, dim=2) for states in (query_BHTD, key_BHTD, value_BHTD))
    for (length, _), *states in zip(runs, *parts, strict=True):
        out_nHtD = _causal(
            *(_by_sequence(part, length) for part in states),
            window=window, dropout=dropout, scaling=scaling, softcap=softcap,
        )  # fmt: skip
        pieces.append(out_nHtD.transpose(1, 2).flatten(0, 1))
    return torch.cat(pieces).unsqueeze(0), None


def _by_sequence(states_1HTD: Tensor, length: int) -> Tensor:
    """[n, H, t, D], a view."""
    _, heads, tokens, size = states_1HTD.shape
    return states_1HTD.view(heads, tokens // length, length, size).transpose(0, 1)


def _causal(
    query: Tensor, key: Tensor, value: Tensor, *, window: int, dropout: float, scaling: float | None,
    softcap: float | None,
) -> Tensor:  # fmt: skip
    """Causal attention [n, H, t, D] within a window, 0 being none; keys and values may have fewer heads."""
    length = query.shape[2]
    band = None
    if 0 < window < length:
        band = torch.ones(length, length, dtype=torch.bool, device=query.device).tril().triu(1 - window)
    if softcap is None:
        return nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=band, is_causal=band is None, dropout_p=dropout, scale=scaling,
            enable_gqa=key.shape[1] != query.shape[1],
        )  # fmt: skip
    if band is None:
        band = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
    groups = query.shape[1] // key.shape[1]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = query @ key.repeat_interleave(groups, dim=1).transpose(2, 3) * scale
    scores = (softcap * torch.tanh(scores / softcap)).masked_fill(~band, -torch.inf)
    weights = nn.functional.dropout(torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype), p=dropout)
    return weights @ value.repeat_interleave(groups, dim=1)


_uncompiled: Any = torch.compiler.disable  # lengths differ from row to row: traced, each would be compiled anew
AttentionInterface.register(NAME, _uncompiled(sequence_attention))
AttentionMaskInterface.register(NAME, _uncompiled(sequence_mask))
