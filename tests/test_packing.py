"""Rows: every sequence once, none too long; and a packed row computes what padded rows compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eyas.packing import packed_rows, padded_rows
from eyas.recipe import LossSpec, TrainingSpec
from eyas.records import SequenceRecord
from eyas.storage.backbone import attach_loss
from eyas.storage.batches import StepLoader, TrainingItem
from eyas.storage.models import load_model
from eyas.storage.scores import TeacherScores


@given(lengths=st.lists(st.integers(1, 32), min_size=1, max_size=40), size=st.integers(1, 9))
def test_rows_hold_every_sequence_once_and_fit(lengths: list[int], size: int) -> None:
    for groups in (
        padded_rows(lengths, micro_batch_size=size),
        packed_rows(lengths, row_length=32, micro_batch_size=size),
    ):
        rows = [row for group in groups for row in group]
        assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
        assert all(sum(lengths[index] for index in row) <= 32 for row in rows)
        assert max(map(len, groups)) <= size


def test_padded_rows_put_sequences_of_like_length_together() -> None:
    assert padded_rows([3, 9, 4, 8], micro_batch_size=2) == [[(1,), (3,)], [(2,), (0,)]]


def items(count: int, seed: int) -> list[TrainingItem]:
    generator = torch.Generator().manual_seed(seed)
    made = []
    for number in range(count):
        prompt = torch.randint(5, 300, (3 + number % 4,), generator=generator).tolist()
        completion = torch.randint(5, 300, (2 + number % 5,), generator=generator).tolist()
        counts = np.array([1 + position % 3 for position in range(len(completion))], dtype=np.int32)
        entries = [torch.randperm(300, generator=generator)[:count].numpy() for count in counts]
        rows = [torch.log_softmax(torch.randn(count + 1, generator=generator), -1).numpy() for count in counts]
        record = SequenceRecord(
            example_id=str(number), sample=0, mode="fast", source="student", prompt_ids=prompt,
            completion_ids=completion, finish_reason="stop",
        )  # fmt: skip
        scores = TeacherScores(
            record.token_hash, counts, np.concatenate(entries), np.concatenate([row[:-1] for row in rows]),
            np.array([row[-1] for row in rows]), np.zeros(len(completion), dtype=np.float32),
        )  # fmt: skip
        made.append(TrainingItem(record, weight=0.5 + number / count, scores=scores))
    return made


def loss_and_gradient(path: Path, *, packing: bool, micro_batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    model = load_model(path)
    attach_loss(model, LossSpec())
    training = TrainingSpec(batch_size=12, packing=packing, max_length=32)
    loader = StepLoader(items(12, 0), list(range(12)), training=training, micro_batch_size=micro_batch_size, pad_id=0)
    batch = loader.step(0)
    total = torch.zeros(())
    for micro_batch in batch.micro_batches:
        loss = model(**micro_batch).total / batch.completion_tokens
        loss.backward()
        total += loss.detach()
    return total, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize(("packing", "micro_batch_size"), [(True, 64), (True, 1), (False, 5), (False, 1)])
def test_packing_and_micro_batches_change_neither_loss_nor_gradient(
    tiny_student: Path, packing: bool, micro_batch_size: int
) -> None:
    loss, gradient = loss_and_gradient(tiny_student, packing=False, micro_batch_size=64)
    other_loss, other_gradient = loss_and_gradient(tiny_student, packing=packing, micro_batch_size=micro_batch_size)
    torch.testing.assert_close(other_loss, loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(other_gradient, gradient, rtol=1e-4, atol=2e-6)
