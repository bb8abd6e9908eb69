"""From sequences to tensors: the micro-batches of each optimiser step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eyas.packing import Row, packed_rows, padded_rows
from eyas.recipe import TrainingSpec
from eyas.records import SequenceRecord
from eyas.storage.scores import TeacherScores


@dataclass(frozen=True)
class TrainingItem:
    """A sequence with what the loss wants to know of it."""

    sequence: SequenceRecord
    weight: float = 1.0
    """w_x, from the curriculum."""
    cross_entropy: bool = True
    """Whether its completion carries the CE term."""
    scores: TeacherScores | None = None

    @property
    def length(self) -> int:
        """Tokens of prompt and completion."""
        return len(self.sequence.prompt_ids) + len(self.sequence.completion_ids)


@dataclass(frozen=True)
class StepBatch:
    """One optimiser step of one rank."""

    micro_batches: list[dict[str, Tensor]]
    completion_tokens: int
    tokens: int
    """Prompt and completion tokens, padding excluded."""


def collate(items: Sequence[TrainingItem], rows: Sequence[Row], *, pad_id: int, packed: bool) -> dict[str, Tensor]:
    """Right-padded rows and, flattened over completion tokens N, everything the loss needs.

    `positions_N` index the flattened [B*T] hidden states that predict the labels: labels are shifted here, once.
    With `packed` it is one row, and has positions too, which restart at every sequence. Without any row it is one
    padding token and no completion token.
    Entry lists are padded to the longest K with the row's first id and log-prob -inf (see losses/teacher.py); all
    items have scores, or none.
    """
    rows = rows or [()]
    order = [items[index] for row in rows for index in row]
    sequences = [item.sequence for item in order]
    prompts = np.array([len(sequence.prompt_ids) for sequence in sequences], dtype=np.int64)
    counts = np.array([len(sequence.completion_ids) for sequence in sequences], dtype=np.int64)
    lengths = prompts + counts
    ends = np.cumsum(lengths)
    first_of_row = np.cumsum([0, *map(len, rows)])
    row_starts = np.concatenate([[0], ends])[first_of_row]
    width = max(1, int(np.diff(row_starts).max()))
    row_of = np.repeat(np.arange(len(rows)), np.diff(first_of_row))
    starts = row_of * width + ends - lengths - row_starts[row_of]
    ids = np.fromiter(
        chain.from_iterable(part for sequence in sequences for part in (sequence.prompt_ids, sequence.completion_ids)),
        dtype=np.int64,
        count=lengths.sum(),
    )
    within = _ranges(lengths)
    cells = np.repeat(starts, lengths) + within
    input_ids = np.full(len(rows) * width, pad_id, dtype=np.int64)
    input_ids[cells] = ids
    position_ids = np.tile(np.arange(width), len(rows)) - np.repeat(np.diff(row_starts), width)
    position_ids = np.maximum(position_ids, 0)
    position_ids[cells] = within
    positions_N = np.repeat(starts + prompts - 1, counts) + _ranges(counts)
    columns: dict[str, NDArray[Any]] = {
        "input_ids": input_ids.reshape(len(rows), width),
        "positions_N": positions_N,
        "labels_N": input_ids[positions_N + 1],
        "weights_N": np.repeat(np.array([item.weight for item in order], dtype=np.float32), counts),
        "ce_mask_N": np.repeat(np.array([item.cross_entropy for item in order], dtype=np.float32), counts),
    }
    if packed:
        columns["position_ids"] = position_ids.reshape(len(rows), width)
    scores = [item.scores for item in order if item.scores is not None]
    return {name: torch.from_numpy(column) for name, column in (columns | _teacher(scores)).items()}


def _ranges(lengths: NDArray[Any]) -> NDArray[Any]:
    """0 to each length, one after another."""
    ranges: NDArray[Any] = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return ranges


def _teacher(scores: Sequence[TeacherScores]) -> dict[str, NDArray[Any]]:
    """The teacher's columns; none without scores."""
    if not scores:
        return {}
    counts, ids, logprobs, tail, own = (
        np.concatenate([getattr(item, name) for item in scores])
        for name in ("counts", "ids", "logprobs", "tail", "token_logprobs")
    )
    present_NK = np.arange(counts.max()) < counts[:, None]
    firsts = ids[np.cumsum(counts) - counts].astype(np.int64)
    ids_NK = np.repeat(firsts[:, None], present_NK.shape[1], axis=1)
    logprobs_NK = np.full(present_NK.shape, -np.inf, dtype=np.float32)
    ids_NK[present_NK] = ids
    logprobs_NK[present_NK] = logprobs
    return {
        "teacher_ids_NK": ids_NK,
        "teacher_logprobs_NK": logprobs_NK,
        "teacher_tail_N": tail,
        "teacher_token_logprobs_N": own,
    }


class StepLoader:
    """The step batches of one rank in the order that the curriculum decided, from `start_step` on."""

    def __init__(
        self,
        items: Sequence[TrainingItem],
        order: Sequence[int],
        *,
        training: TrainingSpec,
        micro_batch_size: int,
        pad_id: int,
        packed: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._items, self._order, self._training = items, order, training
        self._micro_batch_size, self._pad_id, self._packed = micro_batch_size, pad_id, packed
        self._rank, self._world_size = rank, world_size
        self.start_step = 0

    def __len__(self) -> int:
        return len(self._order) // self._training.batch_size

    def __iter__(self) -> Iterator[StepBatch]:
        for step in range(self.start_step, len(self)):
            yield self.step(step)

    def step_indices(self, step: int) -> list[int]:
        """Indices of the items of an optimiser step over all ranks."""
        size = self._training.batch_size
        return list(self._order[step * size : (step + 1) * size])

    def tokens_until(self, step: int) -> int:
        """Tokens of all ranks in the first `step` steps."""
        return sum(self._items[index].length for index in self._order[: step * self._training.batch_size])

    def step(self, step: int) -> StepBatch:
        """The step's share of this rank; every rank does equally many passes, some of them possibly empty."""
        items = [self._items[index] for index in self.step_indices(step)]
        layout = packed_rows if self._packed else padded_rows
        groups = layout(
            [item.length for item in items], micro_batch_size=self._micro_batch_size, ranks=self._world_size
        )[self._rank :: self._world_size]
        own = [items[index] for rows in groups for row in rows for index in row]
        return StepBatch(
            micro_batches=[collate(items, rows, pad_id=self._pad_id, packed=self._packed) for rows in groups],
            completion_tokens=sum(len(item.sequence.completion_ids) for item in own),
            tokens=sum(item.length for item in own),
        )
