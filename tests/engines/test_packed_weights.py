"""Packed products against plain ones."""

from __future__ import annotations

import pytest
import torch

from eyas.engines.packed_weights import REPACK_AFTER, packed_head
from eyas.losses import Head


@pytest.mark.parametrize("rows", [7, 12, 16])
@pytest.mark.parametrize("vocabulary", [None, 900])
def test_a_packed_head_gives_the_logits_of_the_plain_one(rows: int, vocabulary: int | None) -> None:
    torch.manual_seed(0)
    weight, bias, hidden = torch.randn(1024, 96), torch.randn(1024), torch.randn(rows, 96)
    head = Head(weight, bias, scale=0.3, soft_cap=4.0, vocabulary=vocabulary)
    with torch.inference_mode():
        ours = packed_head(head, rows=16)
        for _ in range(REPACK_AFTER + 2):  # fewer rows come to stay, and are packed anew
            torch.testing.assert_close(ours(hidden), head(hidden), atol=1e-5, rtol=1e-5)


def test_what_is_packed_follows_slots_that_are_given_up_and_no_single_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[int] = []
    reorder = torch.ops.mkl._mkl_reorder_linear_weight
    monkeypatch.setattr(
        torch.ops.mkl, "_mkl_reorder_linear_weight", lambda weight, rows: packed.append(rows) or reorder(weight, rows)
    )
    ours = packed_head(Head(torch.randn(1024, 96)), rows=64)
    with torch.inference_mode():
        for rows in [64, 20, 64, 20, *[64] * 9, 500, *[500] * 9, *[40] * 20]:
            ours(torch.randn(rows, 96))
    assert packed == [64, 40]


def test_narrow_and_small_heads_are_left_as_they_are() -> None:
    for head in (Head(torch.randn(1024, 96, dtype=torch.bfloat16)), Head(torch.randn(8, 8))):
        assert packed_head(head, rows=16) is head
    assert packed_head(wide := Head(torch.randn(1024, 96)), rows=4) is wide
