"""The best checkpoint is chosen once, whatever was killed in between."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from eyas.errors import ArtifactError
from eyas.recipe import LossSpec
from eyas.storage.backbone import attach_loss
from eyas.storage.candidates import WEIGHTS, Candidates
from eyas.storage.models import load_model

ACCURACIES = {2: 0.5, 4: 0.75, 6: 0.75, 8: 0.25}


def candidates(path: Path, root: Path) -> tuple[Candidates, torch.nn.Parameter]:
    """After a whole training whose weights at each step are the step's number."""
    model = load_model(path)
    attach_loss(model, LossSpec())
    weight = next(model.parameters())
    made = Candidates(root, model)
    for step, accuracy in ACCURACIES.items():
        with torch.no_grad():
            weight.fill_(float(step))
        made.consider(step, model, lambda _, found=accuracy: found)
    return made, weight


def test_the_most_accurate_candidate_is_restored_the_earliest_of_equals(tiny_student: Path, tmp_path: Path) -> None:
    made, weight = candidates(tiny_student, tmp_path)
    facts = made.restore_best(list(ACCURACIES))
    assert facts["selected_step"] == 4
    assert [row["accuracy"] for row in facts["candidates"]] == list(ACCURACIES.values())
    assert weight.eq(4.0).all()


def test_only_the_best_candidates_weights_are_kept(tiny_student: Path, tmp_path: Path) -> None:
    candidates(tiny_student, tmp_path)
    assert [path.parent.name for path in tmp_path.rglob(WEIGHTS)] == ["step-00000004"]


def test_a_later_attempt_chooses_the_same(tiny_student: Path, tmp_path: Path) -> None:
    candidates(tiny_student, tmp_path)
    again, weight = candidates(tiny_student, tmp_path)
    assert again.restore_best(list(ACCURACIES))["selected_step"] == 4
    assert weight.eq(4.0).all()


@pytest.mark.parametrize("lost", ["step-00000002/accuracy.json", f"step-00000004/{WEIGHTS}"])
def test_nothing_else_is_chosen_where_a_candidate_is_lost(tiny_student: Path, tmp_path: Path, lost: str) -> None:
    made, _ = candidates(tiny_student, tmp_path)
    (tmp_path / lost).unlink()
    with pytest.raises(ArtifactError, match=r"what validation found at steps .* is gone. Delete"):
        made.restore_best(list(ACCURACIES))
