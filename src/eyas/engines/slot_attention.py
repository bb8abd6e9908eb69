"""Attention of one new token in each slot, slots of about one length together: none is padded to the longest of all.

For CPUs, where attention's time is that of reading keys and values; each run of slots costs a call. Slots are given out
by length of prompt, so that neighbours are about equally long. Suffixes: S slots, H heads, W width, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "eyas_slots"
RUN_ELEMENTS = 2**18
"""Numbers in the keys of a run, about; less is lost on calls. SmolLM2, 64 slots, 48 tokens, 2 threads: 126 ms a step,
137 at 2**20, 143 at 2**22."""
_runs: ContextVar[list[tuple[slice, int]]] = ContextVar("runs")
"""Slots and width of each run of the step in hand, of this thread; transformers hands on nothing of the cache."""


def runs_of(widths: Sequence[int], *, elements: int) -> list[tuple[slice, int]]:
    """Runs of neighbouring slots with the largest of their widths, for keys of `elements` numbers a token; runs of one
    width are one."""
    size = -(-RUN_ELEMENTS // (max(widths) * elements))
    found: list[tuple[slice, int]] = []
    for start in range(0, len(widths), size):
        run, width = slice(start, min(start + size, len(widths))), max(widths[start : start + size])
        if found and found[-1][1] == width:
            run = slice(found.pop()[0].start, run.stop)
        found.append((run, width))
    return found


@contextmanager
def slot_attention(model: PreTrainedModel, widths: Sequence[int], *, elements: int) -> Iterator[None]:
    """Within it `model` decodes one token per slot, slot s attending to `widths[s]` tokens at most; `elements` is the
    size of a token's keys in a layer.

    Only scaled_dot_product_attention on a CPU is replaced. One model decodes in one thread at a time.
    """
    config = model.get_decoder().config
    if config._attn_implementation != "sdpa" or model.device.type != "cpu":
        yield
        return
    token = _runs.set(runs_of(widths, elements=elements))
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"
        _runs.reset(token)


def attention_by_run(
    module: nn.Module,
    query_SH1D: Tensor,
    key_SHWD: Tensor,
    value_SHWD: Tensor,
    attention_mask: Tensor,
    **rest: Any,
) -> tuple[Tensor, None]:
    """Attention output [S, 1, H, D], run by run; in one piece for a model whose positions are a bias of attention."""
    runs = _runs.get()
    if rest.get("position_bias") is not None or len(runs) == 1:
        return sdpa_attention_forward(module, query_SH1D, key_SHWD, value_SHWD, attention_mask, **rest)
    found = []
    for slots, width in runs:
        states = (query_SH1D[slots], key_SHWD[slots, :, :width], value_SHWD[slots, :, :width])
        found.append(sdpa_attention_forward(module, *states, attention_mask[slots, :, :, :width], **rest)[0])
    return torch.cat(found), None


AttentionInterface.register(NAME, attention_by_run)
AttentionMaskInterface.register(NAME, sdpa_mask)
