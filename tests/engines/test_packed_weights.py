"""Packed products against plain ones."""

from __future__ import annotations

import pytest
import torch

from eyas.engines.packed_weights import packed_head
from eyas.losses import Head


@pytest.mark.parametrize("rows", [7, 16])
@pytest.mark.parametrize("vocabulary", [None, 900])
def test_a_packed_head_gives_the_logits_of_the_plain_one(rows: int, vocabulary: int | None) -> None:
    torch.manual_seed(0)
    weight, bias, hidden = torch.randn(1024, 96), torch.randn(1024), torch.randn(rows, 96)
    head = Head(weight, bias, scale=0.3, soft_cap=4.0, vocabulary=vocabulary)
    with torch.inference_mode():
        torch.testing.assert_close(packed_head(head, rows=16)(hidden), head(hidden), atol=1e-5, rtol=1e-5)


def test_narrow_and_small_heads_are_left_as_they_are() -> None:
    for head in (Head(torch.randn(1024, 96, dtype=torch.bfloat16)), Head(torch.randn(8, 8))):
        assert packed_head(head, rows=4) is head
