"""Drawn targets: as often as the teacher says, each row by its own uniforms."""

from __future__ import annotations

import torch

from eyas.targets import draw_targets


def test_draws_are_those_of_the_inverse_distribution() -> None:
    # Cumulated: 0.5, 0.75, 1. The uniforms fall on ids 0, 0, 1, 2, 2, 2.
    logits = torch.tensor([[0.5, 0.25, 0.25]]).log()
    ids, counts = draw_targets(logits.softmax(dim=-1), torch.tensor([[0.0, 0.49, 0.51, 0.76, 0.9, 0.999]]))
    assert ids[0, :3].tolist() == [2, 0, 1]
    assert counts[0].tolist() == [3, 2, 1, 0, 0, 0]


def test_shares_are_unbiased() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 12, generator=generator).repeat(4000, 1)
    uniforms = torch.rand(4000, 50, generator=generator, dtype=torch.float64)
    ids, counts = draw_targets(logits.softmax(dim=-1), uniforms)
    assert (counts.sum(dim=-1) == 50).all()
    shares = torch.zeros(12).scatter_add_(0, ids.flatten(), counts.flatten().float()) / (4000 * 50)
    torch.testing.assert_close(shares, logits[0].softmax(-1), atol=4e-3, rtol=0)


def test_an_id_without_mass_is_never_drawn() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    edge = 1 - 2.0**-53
    ids, counts = draw_targets(logits.softmax(dim=-1), torch.tensor([[0.0, 0.5, edge, edge]], dtype=torch.float64))
    assert sorted(ids[0, :2].tolist()) == [1, 3]
    assert counts[0].tolist() == [3, 1, 0, 0]


def test_a_row_depends_on_its_own_uniforms_alone() -> None:
    generator = torch.Generator().manual_seed(1)
    logits, uniforms = torch.randn(5, 9, generator=generator), torch.rand(5, 20, generator=generator)
    ids, counts = draw_targets(logits.softmax(dim=-1), uniforms)
    alone_ids, alone_counts = draw_targets(logits[3:4].softmax(dim=-1), uniforms[3:4])
    torch.testing.assert_close(ids[3:4], alone_ids)
    torch.testing.assert_close(counts[3:4], alone_counts)
