"""Distances between what goes into layers and what comes out, against values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from eyas.importance import (
    angular_distance,
    block_distances,
    block_influence,
    evenly_spaced,
    least_important,
    nearest_block,
)


def test_the_angular_distance_is_the_angle_over_pi() -> None:
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [2.0, 0.0], [1.0, 1.0]])
    y = torch.tensor([[0.0, 3.0], [-1.0, 0.0], [5.0, 0.0], [1.0, 0.0]])
    # 90°, 180°, 0° and 45°, of 180°: lengths do not count.
    assert angular_distance(x, y).tolist() == pytest.approx([0.5, 1.0, 0.0, 0.25], abs=1e-8)


def test_equal_vectors_have_no_distance_in_single_precision_either() -> None:
    x = torch.randn(64, 576, generator=torch.Generator().manual_seed(0))
    assert angular_distance(x, x).max() < 1e-7
    single = torch.nn.functional.cosine_similarity(x, x.clone(), dim=-1)
    assert torch.arccos(single.clamp(-1, 1)).max() / math.pi > 1e-5  # what float32 would make of them


def test_a_vector_of_zeros_is_at_right_angles_to_all() -> None:
    assert angular_distance(torch.zeros(1, 2), torch.ones(1, 2)).tolist() == [0.5]


def test_a_block_s_distance_is_between_its_first_input_and_its_last_output() -> None:
    # Directions of 0°, 90°, 120° and 120°: three layers turn by 90°, 30° and 0°.
    turned = [0.0, 90.0, 120.0, 120.0]
    states = torch.tensor([[math.cos(math.radians(a)), math.sin(math.radians(a))] for a in turned])
    assert block_distances(states, size=1).tolist() == pytest.approx([90 / 180, 30 / 180, 0.0], abs=1e-6)
    assert block_distances(states, size=2).tolist() == pytest.approx([120 / 180, 30 / 180], abs=1e-6)
    assert nearest_block(block_distances(states, size=2).tolist(), size=2) == (1, 2)


def test_block_influence_is_one_minus_the_cosine() -> None:
    x, y = torch.tensor([[1.0, 0.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0], [4.0, 3.0]])
    # 1 - 1, and 1 - (3·4 + 4·3) / (5·5) = 1 - 0.96.
    assert block_influence(x, y).tolist() == pytest.approx([0.0, 0.04], abs=1e-7)


def test_the_least_important_layers_are_named_ascending_and_ties_fall_to_the_first() -> None:
    assert least_important([0.3, 0.1, 0.2, 0.1, 0.1], count=2) == (1, 3)
    assert least_important([0.3, 0.2, 0.1], count=2) == (1, 2)
    assert nearest_block([0.2, 0.1, 0.1], size=3) == (1, 2, 3)


@pytest.mark.parametrize(
    ("layers", "count", "kept"),
    [(5, 3, (0, 2, 4)), (30, 27, tuple(i for i in range(30) if i not in (5, 15, 24))), (4, 1, (0,)), (3, 3, (0, 1, 2))],
)
def test_evenly_spaced_layers_hold_the_first_and_the_last(layers: int, count: int, kept: tuple[int, ...]) -> None:
    assert evenly_spaced(layers, count=count) == kept
