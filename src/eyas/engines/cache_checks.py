"""Whether a model does through our caches what it does without any, tried on a few tokens.

Architectures differ in what they keep (recurrent states, convolutions), in how they read masks, and in whether they
count positions by column; none of them says so, and a wrong guess would be silently wrong log-probs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from eyas.engines.cache import PrefixCache, SlotCache, cached_states
from eyas.errors import ModelError
from eyas.storage.backbone import hidden_states
from eyas.storage.hardware import is_out_of_memory
from eyas.storage.probe import REFUSALS

TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
"""Largest difference of hidden states, as a share of the largest one: rounding is below 1e-5, leaks 0.04 and more."""
NARROW_TOLERANCE = 0.1
"""The same for narrow types, whose rounding alone is some hundredths."""


Through = Callable[[PreTrainedModel, list[list[int]], list[list[int]]], Tensor]
"""(model, two prompts, their continuations of equal length) -> hidden states [2, tokens, D] of the continuations."""


def require_slots(model: PreTrainedModel) -> None:
    """Raises: ModelError, if prompts of unequal length, decoded in slots, are not decoded as they are alone."""
    if not _agrees(model, _decoded):
        raise ModelError(
            f"{type(model).__name__} keeps no key-value cache that eyas can fill, so it cannot be sampled from. "
            "Use a decoder with full or sliding-window attention."
        )


def continues_prompts(model: PreTrainedModel) -> bool:
    """Whether completions behind the keys and values of a shared prompt are seen as they are alone."""
    return _agrees(model, _continued)


def _agrees(model: PreTrainedModel, through: Through) -> bool:
    known: dict[str, bool] = model.__dict__.setdefault("_eyas_cache_checks", {})
    if through.__name__ not in known:
        try:
            known[through.__name__] = _difference(model, through) <= TOLERANCE.get(model.dtype, NARROW_TOLERANCE)
        except REFUSALS as error:
            if is_out_of_memory(error):
                raise
            known[through.__name__] = False
    return known[through.__name__]


def _difference(model: PreTrainedModel, through: Through) -> float:
    count = int(model.config.vocab_size)
    prompts = [[token % count for token in range(1, 6)], [token % count for token in range(7, 20)]]
    rest = [[token % count for token in (23, 29, 31)], [token % count for token in (37, 41, 43)]]
    found = through(model, prompts, rest)
    device = model.device
    alone = torch.stack(
        [
            hidden_states(model, torch.tensor([prompt + more], device=device))[0, len(prompt) :]
            for prompt, more in zip(prompts, rest, strict=True)
        ]
    )
    return float((found - alone).abs().max() / alone.abs().max())


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
