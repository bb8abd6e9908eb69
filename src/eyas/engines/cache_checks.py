"""Whether a model does through our caches what it does without any, tried on a few tokens.

Architectures differ in what they keep (recurrent states, convolutions), in how they read masks, and in whether they
count positions by column; none of them says so, and a wrong guess would be silently wrong log-probs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from eyas.engines.cache import PrefixCache, SlotCache, cached_states
from eyas.errors import ModelError
from eyas.storage.backbone import hidden_states
from eyas.storage.hardware import is_out_of_memory
from eyas.storage.probe import REFUSALS

TOLERANCE = 1e-3
"""Difference of hidden states, as a share of their root mean square: rounding is below 1e-5, leaks 0.02 and more."""
NARROW_TOLERANCE = {"slots": 0.1, "prompts": 0.02}
"""The same for narrow types. bfloat16 alone makes .013 of SmolLM2's 30 layers, and MPT's wrong positions .026: what can
be done without is done without when in doubt."""
WINDOWS = ("sliding_window", "window_size", "attention_window_size")
"""How configs call the tokens that local attention looks back on."""
LONGEST = 512
"""Tokens of the longer prompt at most; a larger window is not tried."""

Through = Callable[[PreTrainedModel, list[list[int]], list[list[int]]], Tensor]
"""(model, two prompts, their continuations of equal length) -> hidden states [2, tokens, D] of the continuations."""


@dataclass(frozen=True)
class Check:
    """What a trial found; `reason` is for the message."""

    agrees: bool
    reason: str


def require_slots(model: PreTrainedModel) -> None:
    """Raises: ModelError, if prompts of unequal length, decoded in slots, are not decoded as they are alone."""
    check = _checked(model, "slots", _decoded)
    if not check.agrees:
        raise ModelError(
            f"{type(model).__name__} keeps no key-value cache that eyas can fill ({check.reason}), so it cannot be "
            "sampled from. Use a decoder with full or sliding-window attention."
        )


def continues_prompts(model: PreTrainedModel) -> bool:
    """Whether completions behind the keys and values of a shared prompt are seen as they are alone."""
    return _checked(model, "prompts", _continued).agrees


def _checked(model: PreTrainedModel, name: str, through: Through) -> Check:
    known: dict[str, Check] = model.__dict__.setdefault("_eyas_cache_checks", {})
    if name not in known:
        wide = model.dtype in (torch.float32, torch.float64)
        tolerance = TOLERANCE if wide else NARROW_TOLERANCE[name]
        try:
            difference = _difference(model, through)
            known[name] = Check(difference <= tolerance, f"states differ by {difference:.1e}, tolerance {tolerance:g}")
        except REFUSALS as error:
            if is_out_of_memory(error):
                raise
            what = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            known[name] = Check(False, what)
    return known[name]


@torch.no_grad()
def _difference(model: PreTrainedModel, through: Through) -> float:
    count, device = int(model.config.vocab_size), model.device
    prompts = [[token % count for token in range(1, 6)], [token % count for token in range(7, 7 + _long(model))]]
    rest = [[token % count for token in (23, 29, 31)], [token % count for token in (37, 41, 43)]]
    found = through(model, prompts, rest).float()
    alone = torch.stack(
        [
            hidden_states(model, torch.tensor([prompt + more], device=device))[0, len(prompt) :]
            for prompt, more in zip(prompts, rest, strict=True)
        ]
    ).float()
    return float((found - alone).square().mean().sqrt() / alone.square().mean().sqrt())


def _long(model: PreTrainedModel) -> int:
    """Tokens of a prompt that reaches beyond the model's smallest window, if that is not too large."""
    config = model.get_decoder().config
    windows = [window for name in WINDOWS if isinstance(window := getattr(config, name, None), int) and window > 0]
    room = int(getattr(config, "max_position_embeddings", None) or LONGEST) - 4
    return min(max([13, *(window + 8 for window in windows if window + 8 <= LONGEST)]), room)


def _padded(model: PreTrainedModel, prompts: list[list[int]]) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=model.device)
    rows = [torch.tensor(prompt, device=model.device) for prompt in prompts]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths


def _decoded(model: PreTrainedModel, prompts: list[list[int]], rest: list[list[int]]) -> Tensor:
    ids_BT, lengths = _padded(model, prompts)
    rows = torch.arange(len(prompts), device=model.device)
    cache = SlotCache(model, slots=len(prompts), capacity=ids_BT.shape[1] + len(rest[0]))
    cache.fill(rows, rows, lengths)
    cached_states(model, ids_BT, cache)
    found = []
    for tokens in torch.tensor(rest, device=model.device).T:
        found.append(cache.decode(tokens))
        cache.lengths += 1
    return torch.stack(found, dim=1)


def _continued(model: PreTrainedModel, prompts: list[list[int]], rest: list[list[int]]) -> Tensor:
    ids_BT, lengths = _padded(model, prompts)
    cache = PrefixCache(model)
    cached_states(model, ids_BT, cache)
    rows = torch.arange(len(prompts), device=model.device)
    tokens = torch.tensor(rest, device=model.device)
    mask = cache.proceed(rows, lengths=lengths, width=ids_BT.shape[1], tokens=tokens.shape[1])
    positions_BT = lengths[:, None] + torch.arange(tokens.shape[1], device=model.device)
    return cached_states(model, tokens, cache, positions_BT=positions_BT, mask=mask)
