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

Batch = tuple[list[int], Tensor, Tensor]
"""Indices of sequences, the hidden states [N, D] that predict their completions, and the completions' ids [N]."""


def completion_states(
    model: PreTrainedModel, sequences: Sequence[tuple[Ids, Ids]], *, batch_size: int
) -> Iterator[Batch]:
    """Batches over all sequences (prompt ids, completion ids), about `batch_size` sequences each.

    A completion's last token predicts nothing here and is not computed.

    Prompts are shared only with a model that `continues_prompts` as if they had been computed together.
    """
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
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
    for batch in _batches(shared, sequences, batch_size=batch_size):
        yield _shared(model, sequences, batch)


def _separate(model: PreTrainedModel, sequences: Sequence[tuple[Ids, Ids]], batch: list[int]) -> Batch:
    texts = [sequences[index][0] + sequences[index][1][:-1] for index in batch]
    hidden_BTD = hidden_states(model, _padded(texts, model.device))
    width = hidden_BTD.shape[1]
    starts = [row * width + len(sequences[index][0]) - 1 for row, index in enumerate(batch)]
    counts = [len(sequences[index][1]) for index in batch]
    positions = [start + step for start, count in zip(starts, counts, strict=True) for step in range(count)]
    return batch, hidden_BTD.flatten(0, 1)[positions], _labels(sequences, batch, model.device)


def _batches(
    groups: list[list[int]], sequences: Sequence[tuple[Ids, Ids]], *, batch_size: int
) -> Iterator[list[list[int]]]:
    """Groups of one prompt each, sorted by length of the prompt, together until they reach `batch_size` sequences."""
    ordered = sorted(groups, key=lambda group: (-len(sequences[group[0]][0]), group[0]))
    pieces = [group[start : start + batch_size] for group in ordered for start in range(0, len(group), batch_size)]
    batch: list[list[int]] = []
    for piece in pieces:
        if batch and sum(map(len, batch)) + len(piece) > batch_size:
            yield batch
            batch = []
        batch.append(piece)
    if batch:
        yield batch


def _shared(model: PreTrainedModel, sequences: Sequence[tuple[Ids, Ids]], groups: list[list[int]]) -> Batch:
    """The prompts once, then every completion behind the keys and values of its own."""
    device = model.device
    prompts = [sequences[group[0]][0] for group in groups]
    cache = PrefixCache(model)
    prompt_BTD = cached_states(model, _padded(prompts, device), cache)
    last_BD = prompt_BTD[range(len(prompts)), [len(prompt) - 1 for prompt in prompts]]
    batch = [index for group in groups for index in group]
    row_of = [row for row, group in enumerate(groups) for _ in group]
    rows = torch.tensor(row_of, device=device)
    firsts_BD = last_BD[rows]
    width = max(len(sequences[index][1]) for index in batch) - 1
    if width == 0:
        return batch, firsts_BD, _labels(sequences, batch, device)
    lengths = torch.tensor([len(prompts[row]) for row in row_of], device=device)
    mask = cache.proceed(rows, lengths=lengths, width=prompt_BTD.shape[1], tokens=width)
    positions_BT = lengths[:, None] + torch.arange(width, device=device)
    texts = [sequences[index][1][:-1] for index in batch]
    rest_BTD = cached_states(model, _padded(texts, device), cache, positions_BT=positions_BT, mask=mask)
    states_BTD = torch.cat([firsts_BD[:, None], rest_BTD], dim=1)
    counts = torch.tensor([len(sequences[index][1]) for index in batch], device=device)
    predicting = torch.arange(width + 1, device=device) < counts[:, None]
    return batch, states_BTD[predicting], _labels(sequences, batch, device)


def _padded(rows: Sequence[Ids], device: torch.device) -> Tensor:
    """Right-padded ids [B, T], at least one token wide."""
    ids = torch.zeros(len(rows), max(1, *map(len, rows)), dtype=torch.long)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
    return ids.to(device)


def _labels(sequences: Sequence[tuple[Ids, Ids]], batch: list[int], device: torch.device) -> Tensor:
    return torch.tensor([token for index in batch for token in sequences[index][1]], device=device)
