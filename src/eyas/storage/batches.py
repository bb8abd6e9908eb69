"""From sequences to tensors: the micro-batches of each optimiser step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eyas.packing import Row, packed_rows, padded_rows
from eyas.recipe import TrainingSpec
from eyas.records import SequenceRecord, TeacherScores


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
    Entry lists are padded to the longest K with the row's first id and log-prob -inf (see losses.py).
    """
    rows = rows or [()]
    width = max(1, *(sum(items[index].length for index in row) for row in rows))
    input_ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    position_ids = torch.zeros((len(rows), width), dtype=torch.long)
    positions: list[int] = []
    labels: list[int] = []
    weights: list[float] = []
    ce_mask: list[float] = []
    entries: list[tuple[list[int], list[float]]] = []
    masses: list[float] = []
    for number, row in enumerate(rows):
        start = 0
        for index in row:
            item = items[index]
            ids = item.sequence.prompt_ids + item.sequence.completion_ids
            input_ids[number, start : start + len(ids)] = torch.tensor(ids)
            position_ids[number, start : start + len(ids)] = torch.arange(len(ids))
            count = len(item.sequence.completion_ids)
            first = number * width + start + len(item.sequence.prompt_ids) - 1
            positions += range(first, first + count)
            labels += item.sequence.completion_ids
            weights += [item.weight] * count
            ce_mask += [float(item.cross_entropy)] * count
            if item.scores is not None:
                entries += zip(item.scores.ids, item.scores.logprobs, strict=True)
                masses += item.scores.captured_mass
            start += len(ids)
    batch = {
        "input_ids": input_ids,
        "positions_N": torch.tensor(positions, dtype=torch.long),
        "labels_N": torch.tensor(labels, dtype=torch.long),
        "weights_N": torch.tensor(weights, dtype=torch.float32),
        "ce_mask_N": torch.tensor(ce_mask, dtype=torch.float32),
    }
    if packed:
        batch["position_ids"] = position_ids
    if entries:
        width_k = max(len(ids) for ids, _ in entries)
        padded_ids = [ids + ids[:1] * (width_k - len(ids)) for ids, _ in entries]
        padded_logprobs = [values + [float("-inf")] * (width_k - len(values)) for _, values in entries]
        batch["teacher_ids_NK"] = torch.tensor(padded_ids)
        batch["teacher_logprobs_NK"] = decoded_logprobs(
            torch.tensor(padded_logprobs, dtype=torch.float64), torch.tensor(masses, dtype=torch.float64)
        )
    return batch


def decoded_logprobs(stored_NK: Tensor, captured_mass_N: Tensor) -> Tensor:
    """Stored log-probs [N, K] (padding -inf), each row shifted so that it adds up to its captured mass; float64.

    Rounding alone would move a confident teacher's captured mass past 1 and its tail to nothing, for which reverse
    KL would charge the student.
    """
    shift_N1 = captured_mass_N.log().unsqueeze(-1) - torch.logsumexp(stored_NK, dim=-1, keepdim=True)
    return stored_NK + shift_N1


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
