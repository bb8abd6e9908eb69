"""The hidden states that predict completions, in length-sorted batches; completions of one prompt share its work."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from eyas.engines.base import Ids
from eyas.engines.cache import PrefixCache, cached_states
from eyas.engines.cache_checks import continues_prompts
from eyas.packing import padded_rows
from eyas.storage.backbone import hidden_states

SHARED_TOKENS = 32
"""Prompt tokens from which on several completions share one computation of it; less is not worth a second pass."""
WINDOW = 4
"""Batches whose prompts are held together, so that completions of several prompts can be sorted by length."""
MASK_ELEMENTS = 2**27
"""Queries times keys of a pass behind prompts, about: 512 MiB of mask in float32."""

Batch = tuple[list[int], Tensor, Tensor]
"""Indices of sequences, the hidden states [N, D] that predict their completions, and the completions' ids [N]."""
Group = list[int]
"""Indices of sequences of one prompt."""


def completion_states(
    model: PreTrainedModel, sequences: Sequence[tuple[Ids, Ids]], *, batch_size: int
) -> Iterator[Batch]:
    """Batches over all sequences (prompt ids, completion ids), at most `batch_size` sequences each.

    A completion's last token predicts nothing here and is not computed.

    Prompts are shared only with a model that `continues_prompts` as if they had been computed together.
    """
    groups: dict[tuple[int, ...], Group] = defaultdict(list)
    for index, (prompt, _) in enumerate(sequences):
        groups[tuple(prompt)].append(index)
    shared = [group for prompt, group in groups.items() if len(group) > 1 and len(prompt) >= SHARED_TOKENS]
    if shared and not continues_prompts(model):
        shared = []
    together = {index for group in shared for index in group}
    alone = [index for index in range(len(sequences)) if index not in together]
    lengths = [sum(map(len, sequences[index])) for index in alone]
    for rows in padded_rows(lengths, micro_batch_size=batch_size) if alone else []:
        yield _separate(model, sequences, [alone[row] for (row,) in rows])
    for window in _windows(shared, sequences, batch_size=batch_size):
        yield from _shared(model, sequences, window, batch_size=batch_size)


def _windows(
    groups: list[Group], sequences: Sequence[tuple[Ids, Ids]], *, batch_size: int
) -> Iterator[list[Group]]:  # fmt: skip
    """Groups of about equally long prompts, at most `batch_size` of them, until they fill WINDOW batches."""
    window: list[Group] = []
    for group in sorted(groups, key=lambda group: (-len(sequences[group[0]][0]), group[0])):
        if window and (len(window) == batch_size or sum(map(len, window)) + len(group) > WINDOW * batch_size):
            yield window
            window = []
        window.append(group)
    if window:
        yield window


def _shared_batches(
    window: list[Group], sequences: Sequence[tuple[Ids, Ids]], *, batch_size: int
) -> Iterator[list[tuple[int, int]]]:
    """(index of the sequence, number of its prompt), longest completions first."""
    rows = [(index, prompt) for prompt, group in enumerate(window) for index in group]
    rows.sort(key=lambda row: (-len(sequences[row[0]][1]), row))
    width = max(len(sequences[group[0]][0]) for group in window)
    start = 0
    while start < len(rows):
        tokens = len(sequences[rows[start][0]][1])
        size = max(1, min(batch_size, MASK_ELEMENTS // (tokens * (width + tokens))))
        yield rows[start : start + size]
        start += size


def _separate(model: PreTrainedModel, sequences: Sequence[tuple[Ids, Ids]], batch: list[int]) -> Batch:
    texts = [sequences[index][0] + sequences[index][1][:-1] for index in batch]
    hidden_BTD = hidden_states(model, _padded(texts, model.device))
    width = hidden_BTD.shape[1]
    starts = [row * width + len(sequences[index][0]) - 1 for row, index in enumerate(batch)]
    counts = [len(sequences[index][1]) for index in batch]
    positions = [start + step for start, count in zip(starts, counts, strict=True) for step in range(count)]
    return batch, hidden_BTD.flatten(0, 1)[positions], _labels(sequences, batch, model.device)


def _shared(
    model: PreTrainedModel, sequences: Sequence[tuple[Ids, Ids]], window: list[Group], *, batch_size: int
) -> Iterator[Batch]:
    """The prompts once, then every completion behind the keys and values of its own."""
    device = model.device
    prompts = [sequences[group[0]][0] for group in window]
    cache = PrefixCache(model)
    prompt_PTD = cached_states(model, _padded(prompts, device), cache)
    last_PD = prompt_PTD[range(len(prompts)), [len(prompt) - 1 for prompt in prompts]]
    held = torch.tensor([len(prompt) for prompt in prompts], device=device)
    for pairs in _shared_batches(window, sequences, batch_size=batch_size):
        batch = [index for index, _ in pairs]
        rows = torch.tensor([prompt for _, prompt in pairs], device=device)
        states_BTD = last_PD[rows][:, None]
        width = len(sequences[batch[0]][1]) - 1
        if width > 0:
            mask = cache.proceed(rows, lengths=held[rows], width=prompt_PTD.shape[1], tokens=width)
            positions_BT = held[rows][:, None] + torch.arange(width, device=device)
            texts = _padded([sequences[index][1][:-1] for index in batch], device)
            rest_BTD = cached_states(model, texts, cache, positions_BT=positions_BT, mask=mask)
            states_BTD = torch.cat([states_BTD, rest_BTD], dim=1)
        counts = torch.tensor([len(sequences[index][1]) for index in batch], device=device)
        predicting = torch.arange(width + 1, device=device) < counts[:, None]
        yield batch, states_BTD[predicting], _labels(sequences, batch, device)


def _padded(rows: Sequence[Ids], device: torch.device) -> Tensor:
    """Right-padded ids [B, T], at least one token wide."""
    ids = torch.zeros(len(rows), max(1, *map(len, rows)), dtype=torch.long)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
    return ids.to(device)


def _labels(sequences: Sequence[tuple[Ids, Ids]], batch: list[int], device: torch.device) -> Tensor:
    return torch.tensor([token for index in batch for token in sequences[index][1]], device=device)
