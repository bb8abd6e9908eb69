"""A key-value cache that is allocated once: decoding writes into it and reads views, nothing is copied per step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer


class PreallocatedLayer(DynamicLayer):
    """Keys and values [B, H, capacity, D]; `update` returns the filled part as a view."""

    def __init__(self, capacity: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._capacity = capacity
        self._length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate for the batch and heads of the first states."""
        batch, heads, _, width = key_states.shape
        self.device = key_states.device
        self._key_buffer = key_states.new_empty(batch, heads, self._capacity, width)
        self._value_buffer = value_states.new_empty(batch, heads, self._capacity, value_states.shape[-1])
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append, in place."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self._length + key_states.shape[-2]
        self._key_buffer[:, :, self._length : end] = key_states
        self._value_buffer[:, :, self._length : end] = value_states
        self._length = end
        self.keys, self.values = self._key_buffer[:, :, :end], self._value_buffer[:, :, :end]
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Tokens held."""
        return self._length

    def keep_rows(self, rows: Tensor) -> None:
        """Forget all batch rows but these."""
        filled = self._length
        for name in ("_key_buffer", "_value_buffer"):
            old = getattr(self, name)
            new = old.new_empty(len(rows), *old.shape[1:])
            new[:, :, :filled] = old[rows, :, :filled]
            setattr(self, name, new)


class PreallocatedCache(Cache):
    """One layer per decoder layer, for full attention (a sliding window is not cropped: only more is kept)."""

    def __init__(self, model: PreTrainedModel, *, capacity: int) -> None:
        count = model.config.num_hidden_layers
        super().__init__(layers=[PreallocatedLayer(capacity) for _ in range(count)])

    def keep_rows(self, rows: Tensor) -> None:
        """Forget all batch rows but these."""
        for layer in self.layers:
            layer.keep_rows(rows)  # type: ignore[union-attr]


def left_pad(prompts: list[list[int]], *, pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(ids [B, T], mask [B, T] of ones where a prompt is)."""
    width = max(map(len, prompts))
    ids = torch.tensor([[pad_id] * (width - len(prompt)) + prompt for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    return ids, mask
