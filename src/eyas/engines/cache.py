"""A key-value cache of slots: prompts are written into them once, decoding writes in place, nothing is copied per step.

Every slot is at its own length, so that a finished sequence's slot can be given to the next request while the others
go on (continuous batching, as in Orca, OSDI 2022). Suffixes: S slots, B rows, T tokens, C capacity, H heads, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from eyas.errors import ModelError


class SlotLayer(DynamicLayer):
    """Keys and values [S, H, C, D] of one layer; what `update` does with new states is the cache's to say."""

    def __init__(self, owner: SlotCache) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._owner = owner
        self.written = 0
        """Calls of `update`: a model that keeps its state elsewhere makes none."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate for the heads of the first states."""
        _, heads, _, width = key_states.shape
        slots, capacity = self._owner.slots, self._owner.capacity
        self.device = key_states.device
        self.keys = key_states.new_zeros(slots, heads, capacity, width)
        self.values = value_states.new_zeros(slots, heads, capacity, value_states.shape[-1])
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Prefill: keep a copy, attend to the new states alone. Decode: write each row at its length, return views."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None  # noqa: S101, PT018  (for the type checker)
        self.written += 1
        prefill = self._owner.prefill
        if prefill is not None:
            slots, rows = prefill
            end = key_states.shape[-2]
            self.keys[slots, :, :end] = key_states[rows]
            self.values[slots, :, :end] = value_states[rows]
            return key_states, value_states
        every, at = self._owner.every, self._owner.lengths
        self.keys[every, :, at] = key_states[:, :, 0]
        self.values[every, :, at] = value_states[:, :, 0]
        width = self._owner.width
        return self.keys[:, :, :width], self.values[:, :, :width]

    def get_seq_length(self) -> int:
        """Tokens that the states to come follow: none in a prefill."""
        return 0 if self._owner.prefill is not None else self._owner.width - 1

    def keep(self, slots: Tensor) -> None:
        """Forget all slots but these."""
        assert self.keys is not None and self.values is not None  # noqa: S101, PT018
        self.keys, self.values = self.keys[slots], self.values[slots]


class SlotCache(Cache):
    """See the module. `lengths` [S] int64 are the tokens held by each slot, kept by whoever decodes."""

    def __init__(self, model: PreTrainedModel, *, slots: int, capacity: int) -> None:
        self.slots, self.capacity = slots, capacity
        self.prefill: tuple[Tensor, Tensor] | None = None
        self.lengths = torch.zeros(slots, dtype=torch.long, device=model.device)
        self.every = torch.arange(slots, device=model.device)
        self.width = 0
        self._config = model.config
        super().__init__(layers=[SlotLayer(self) for _ in range(model.config.num_hidden_layers)])

    def fill(self, slots: Tensor, rows: Tensor, lengths: Tensor) -> None:
        """The next forward pass is a prefill of right-padded prompts: row `rows[i]`, of `lengths[i]` tokens, is for slot
        `slots[i]`; several slots may take the same row."""
        self.prefill = (slots, rows)
        self.lengths[slots] = lengths

    def step(self) -> Tensor | dict[str, Tensor]:
        """The next forward pass decodes one token per slot; returns its attention mask [S, 1, 1, width], true where a
        slot attends, by kind of layer where the model has several kinds."""
        self.prefill = None
        self.width = int(self.lengths.max()) + 1
        columns = torch.arange(self.width, device=self.lengths.device)
        full = columns <= self.lengths[:, None]
        window = getattr(self._config, "sliding_window", None)
        kinds = set(getattr(self._config, "layer_types", None) or ())
        windowed = full if window is None else full & (columns > self.lengths[:, None] - window)
        if "sliding_attention" in kinds:
            return {"full_attention": full[:, None, None], "sliding_attention": windowed[:, None, None]}
        return (full if kinds else windowed)[:, None, None]

    def keep(self, slots: Tensor) -> None:
        """Forget all slots but these."""
        for layer in self.layers:
            layer.keep(slots)  # type: ignore[union-attr]
        self.lengths = self.lengths[slots]
        self.slots = len(slots)
        self.every = self.every[: self.slots]

    def require_written(self, model: PreTrainedModel) -> None:
        """Raises: ModelError, if a layer of the model keeps its state elsewhere."""
        if any(layer.written == 0 for layer in self.layers):  # type: ignore[union-attr]
            raise ModelError(
                f"{type(model).__name__} keeps no key-value cache that eyas can fill, so it cannot be sampled from. "
                "Use a decoder with full or sliding-window attention."
            )
