"""A key-value cache of slots: prompts are written into them once, decoding writes in place, nothing is copied per step.

Every slot is at its own length, so that a finished sequence's slot can be given to the next request while the others
go on (continuous batching, as in Orca, OSDI 2022). Suffixes: S slots, B rows, T tokens, C capacity, H heads, D width.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from eyas.engines.slot_attention import slot_attention


class SlotLayer(DynamicLayer):
    """Keys and values [S, H, C, D] of one layer; what `update` does with new states is the cache's to say."""

    def __init__(self, owner: SlotCache) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._owner = owner

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
        prefill = self._owner.prefill
        if prefill is not None:
            slots, rows = prefill
            end = key_states.shape[-2]
            self.keys[slots, :, :end] = key_states[rows]
            self.values[slots, :, :end] = value_states[rows]
            return key_states, value_states
        every = torch.arange(len(self.keys), device=self.keys.device)
        self.keys[every, :, self._owner.lengths] = key_states[:, :, 0]
        self.values[every, :, self._owner.lengths] = value_states[:, :, 0]
        width = self._owner.width
        return self.keys[:, :, :width], self.values[:, :, :width]

    def get_seq_length(self) -> int:
        """Tokens that the states to come follow: none in a prefill."""
        return 0 if self._owner.prefill is not None else self._owner.width - 1

    def copy(self, source: int, slots: Tensor, length: int) -> None:
        """Give slots the first `length` tokens that another one holds."""
        assert self.keys is not None and self.values is not None  # noqa: S101, PT018
        for states in (self.keys, self.values):
            states[slots, :, :length] = states[source, :, :length].clone()

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
        self.width = 0
        self._model = model
        super().__init__(layers=[SlotLayer(self) for _ in range(model.config.num_hidden_layers)])

    def fill(self, slots: Tensor, rows: Tensor, lengths: Tensor) -> None:
        """The next forward pass is a prefill of right-padded prompts: row `rows[i]`, of `lengths[i]` tokens, is for
        slot `slots[i]`; several slots may take the same row."""
        self.prefill = (slots, rows)
        self.lengths[slots] = lengths

    def decode(self, tokens_S: Tensor) -> Tensor:
        """Last hidden states [S, D] after one more token in each slot; that it is held is for the caller to count."""
        self.prefill = None
        widths = [length + 1 for length in self.lengths.tolist()]
        self.width = max(widths)
        positions_S1 = self.lengths[:, None]
        columns_1W = torch.arange(self.width, device=self.lengths.device)[None]
        mask = attention_masks(self._model, queries_BQ=positions_S1, keys_BK=columns_1W)
        with slot_attention(self._model, widths, elements=self._key_elements()):
            return cached_states(self._model, tokens_S[:, None], self, positions_BT=positions_S1, mask=mask)[:, -1]

    def _key_elements(self) -> int:
        keys: Tensor | None = self.layers[0].keys  # type: ignore[union-attr]
        return 1 if keys is None else keys.shape[1] * keys.shape[3]

    def copy(self, source: int, slots: Tensor, length: int) -> None:
        """Give slots the first `length` tokens that another one holds."""
        for layer in self.layers:
            layer.copy(source, slots, length)  # type: ignore[union-attr]
        self.lengths[slots] = length

    def keep(self, slots: Tensor) -> None:
        """Forget all slots but these."""
        for layer in self.layers:
            layer.keep(slots)  # type: ignore[union-attr]
        self.lengths = self.lengths[slots]
        self.slots = len(slots)


def attention_masks(
    model: PreTrainedModel, *, queries_BQ: Tensor, keys_BK: Tensor, exists_BK: Tensor | None = None
) -> Tensor | dict[str, Tensor]:
    """Mask [B, 1, Q, K] from the positions of queries and keys; where there is padding, `exists_BK` is false.

    True where a query sees a key, or, for attention that adds its mask to the scores (eager, and all on a CPU, where
    every layer would make numbers of it), 0 there and the least number elsewhere. By kind of layer where the model has
    several kinds, of which one looks back no further than its window.
    """
    config = model.get_decoder().config
    adds = config._attn_implementation == "eager" or model.device.type == "cpu"
    keys_B1K, queries_BQ1 = keys_BK[:, None], queries_BQ[..., None]
    visible_BQK = keys_B1K <= queries_BQ1
    if exists_BK is not None:
        visible_BQK &= exists_BK[:, None]

    def made(seen_BQK: Tensor) -> Tensor:
        if not adds:
            return seen_BQK[:, None]
        zeros = torch.zeros(seen_BQK.shape, dtype=model.dtype, device=seen_BQK.device)
        return zeros.masked_fill_(~seen_BQK, torch.finfo(model.dtype).min)[:, None]

    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    full = made(visible_BQK)
    if window is None or kinds == {"full_attention"}:
        return full
    windowed = made(visible_BQK & (keys_B1K > queries_BQ1 - window))
    return {"full_attention": full, "sliding_attention": windowed} if kinds else windowed


def cache_argument(module: torch.nn.Module) -> str:
    """What a module's forward calls its cache: renamed in transformers 5, and an unknown name would be swallowed."""
    return "cache" if "cache" in inspect.signature(module.forward).parameters else "past_key_values"


def cached_states(
    model: PreTrainedModel,
    ids_BT: Tensor,
    cache: Cache,
    *,
    positions_BT: Tensor | None = None,
    mask: Tensor | dict[str, Tensor] | None = None,
) -> Tensor:
    """Last hidden states [B, T, D] of tokens whose keys and values go through `cache`."""
    decoder = model.get_decoder()
    name = cache_argument(decoder)
    output = decoder(input_ids=ids_BT, attention_mask=mask, position_ids=positions_BT, use_cache=True, **{name: cache})
    states: Tensor = output.last_hidden_state
    return states


class PrefixLayer(DynamicLayer):
    """Keys and values of prompts [B, H, T, D], shared by the rows that continue them."""

    def __init__(self, owner: PrefixCache) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._owner = owner

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """First the prompts' states, kept and returned; then the continuations', returned behind their prompts'."""
        rows = self._owner.rows
        if rows is None:
            self.keys, self.values, self.is_initialized = key_states, value_states, True
            return key_states, value_states
        assert self.keys is not None and self.values is not None  # noqa: S101, PT018
        return torch.cat([self.keys[rows], key_states], dim=-2), torch.cat([self.values[rows], value_states], dim=-2)

    def get_seq_length(self) -> int:
        """Tokens that the states to come follow: none while the prompts are computed."""
        return 0 if self._owner.rows is None or self.keys is None else int(self.keys.shape[-2])


class PrefixCache(Cache):
    """Prompts computed once, then continued by several rows each, in two forward passes."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.rows: Tensor | None = None
        self._model = model
        super().__init__(layers=[PrefixLayer(self) for _ in range(model.config.num_hidden_layers)])

    def proceed(self, rows: Tensor, *, lengths: Tensor, width: int, tokens: int) -> Tensor | dict[str, Tensor]:
        """The next pass, and there may be several, continues prompt `rows[i]`, of `lengths[i]` tokens in a row of
        `width`, by `tokens` tokens; returns its attention mask [B, 1, tokens, width + tokens]."""
        self.rows = rows
        steps = torch.arange(tokens, device=lengths.device)
        prompt = torch.arange(width, device=lengths.device).expand(len(rows), -1)
        queries = lengths[:, None] + steps
        exists = torch.cat([prompt < lengths[:, None], torch.ones_like(queries, dtype=torch.bool)], dim=-1)
        keys = torch.cat([prompt, queries], dim=-1)
        return attention_masks(self._model, queries_BQ=queries, keys_BK=keys, exists_BK=exists)
