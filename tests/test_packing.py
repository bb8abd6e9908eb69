"""Rows: every sequence once, none too long; and a packed row computes what padded rows compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eyas.packing import packed_rows, packing_gain, padded_rows
from eyas.recipe import LossSpec, TrainingSpec
from eyas.records import SequenceRecord
from eyas.storage.backbone import attach_loss
from eyas.storage.batches import StepLoader, TrainingItem
from eyas.storage.models import load_model
from eyas.storage.scores import TeacherScores


@given(lengths=st.lists(st.integers(1, 32), max_size=40), size=st.integers(1, 9), ranks=st.integers(1, 4))
def test_rows_hold_every_sequence_once_and_every_rank_does_equally_many_passes(
    lengths: list[int], size: int, ranks: int
) -> None:
    for layout in (padded_rows, packed_rows):
        groups = layout(lengths, micro_batch_size=size, ranks=ranks)
        assert sorted(index for rows in groups for row in rows for index in row) == list(range(len(lengths)))
        assert all(sum(map(len, rows)) <= size for rows in groups)
        assert len({len(groups[rank::ranks]) for rank in range(ranks)}) == 1
        assert len(groups) < len(lengths) / size + ranks


@given(lengths=st.lists(st.integers(1, 32), min_size=1, max_size=40), size=st.integers(1, 9))
def test_packed_micro_batches_are_one_row_each_with_neighbours_of_equal_length_together(
    lengths: list[int], size: int
) -> None:
    groups = packed_rows(lengths, micro_batch_size=size)
    assert all(len(rows) == 1 for rows in groups)
    for (row,) in groups:
        assert [lengths[index] for index in row] == sorted((lengths[index] for index in row), reverse=True)


def test_packed_rows_have_nearly_equal_token_counts() -> None:
    lengths = [100, 90, 80, 70, 40, 30, 20, 10]
    assert packed_rows(lengths, micro_batch_size=4) == [[(0, 3, 4, 7)], [(1, 2, 5, 6)]]  # 220 tokens each


def test_padded_rows_put_sequences_of_like_length_together() -> None:
    assert padded_rows([3, 9, 4, 8], micro_batch_size=2) == [[(1,), (3,)], [(2,), (0,)]]


def test_packing_pays_with_large_layers_and_unlike_lengths_only() -> None:
    """Padding of 2 + 4 + 6 + 8 tokens is saved, for four calls beyond the first: 150 us each, 3.5 + 98 us a token."""
    lengths = [10, 8, 6, 4, 2]
    assert packing_gain(lengths, micro_batch_size=5, layer_parameters=3.5e6) == pytest.approx(20 - 4 * 150 / 101.5)
    assert packing_gain(lengths, micro_batch_size=5, layer_parameters=0) == pytest.approx(20 - 4 * 150 / 3.5)
    assert packing_gain([7] * 5, micro_batch_size=5, layer_parameters=3.5e6) == 0


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


def loss_and_gradient(
    path: Path, *, packed: bool, micro_batch_size: int, ranks: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    model = load_model(path)
    attach_loss(model, LossSpec())
    batches = [
        StepLoader(
            items(12, 0), list(range(12)), training=TrainingSpec(batch_size=12), micro_batch_size=micro_batch_size,
            pad_id=0, packed=packed, rank=rank, world_size=ranks,
        ).step(0)
        for rank in range(ranks)
    ]  # fmt: skip
    assert len({len(batch.micro_batches) for batch in batches}) == 1
    count = sum(batch.completion_tokens for batch in batches)
    total = torch.zeros(())
    for batch in batches:
        for micro_batch in batch.micro_batches:
            loss = model(**micro_batch).total / count
            loss.backward()
            total += loss.detach()
    return total, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize(
    ("packed", "micro_batch_size", "ranks"),
    [(True, 64, 1), (True, 5, 1), (True, 1, 1), (False, 5, 1), (False, 1, 1), (True, 1, 5), (False, 1, 5)],
)
def test_packing_micro_batches_and_ranks_without_work_change_neither_loss_nor_gradient(
    tiny_student: Path, packed: bool, micro_batch_size: int, ranks: int
) -> None:
    """12 sequences, 5 ranks, one at a time: 15 passes, three of them empty."""
    loss, gradient = loss_and_gradient(tiny_student, packed=False, micro_batch_size=64)
    other_loss, other_gradient = loss_and_gradient(
        tiny_student, packed=packed, micro_batch_size=micro_batch_size, ranks=ranks
    )
    torch.testing.assert_close(other_loss, loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(other_gradient, gradient, rtol=1e-4, atol=2e-6)
