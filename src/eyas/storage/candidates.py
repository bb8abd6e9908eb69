"""Which checkpoint of a training stage is the best: accuracy on validation at given steps, kept through crashes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from eyas.errors import ArtifactError
from eyas.storage.artifacts import atomic_path, read_json, write_json

Validate = Callable[[PreTrainedModel], float]
WEIGHTS = "trainable.safetensors"
"""A candidate's trainable weights."""
ACCURACY = "accuracy.json"
"""What validation found."""


class Candidates:
    """Accuracy at the selection points and the best one's trainable weights, written whole or not at all.

    They stay until the stage is sealed, so that a crash after the training can still choose.
    """

    def __init__(self, root: Path, model: PreTrainedModel) -> None:
        self._root, self._model = root, model

    def consider(self, step: int, model: PreTrainedModel, validate: Validate | None) -> None:
        """Measure what an earlier attempt has not; keep the accuracy, and the weights if it is the highest so far."""
        if validate is None or (self._path(step) / ACCURACY).is_file():
            return
        accuracy = validate(model)
        before = self._accuracies()
        with atomic_path(self._path(step)) as draft:
            draft.mkdir(parents=True)
            if not before or accuracy > _best(before)["accuracy"]:
                weights = {
                    name: value.detach().cpu().contiguous()
                    for name, value in self._model.named_parameters()
                    if value.requires_grad
                }
                save_file(weights, draft / WEIGHTS)
            write_json(draft / ACCURACY, {"step": step, "accuracy": accuracy})
        kept = self._path(_best(self._accuracies())["step"])
        for path in self._root.glob(f"step-*/{WEIGHTS}"):
            if path.parent != kept:
                path.unlink()

    def restore_best(self, selections: Sequence[int]) -> dict[str, Any]:
        """Load the most accurate candidate, the earliest of equals; say which and what all scored.

        Raises: ArtifactError, if a selection point's accuracy or the best one's weights are gone.
        """
        found = self._accuracies()
        missing = sorted(set(selections) - {row["step"] for row in found})
        if missing or not (self._path(_best(found)["step"]) / WEIGHTS).is_file():
            raise ArtifactError(
                f"{self._root}: what validation found at steps {missing or _best(found)['step']} is gone. "
                f"Delete {self._root.parent} and run the same command again to redo this stage."
            )
        best = _best(found)
        self._model.load_state_dict(load_file(self._path(best["step"]) / WEIGHTS), strict=False)
        return {"selected_step": best["step"], "candidates": found}

    def _path(self, step: int) -> Path:
        return self._root / f"step-{step:08d}"

    def _accuracies(self) -> list[dict[str, Any]]:
        return [read_json(path) for path in sorted(self._root.glob(f"step-*/{ACCURACY}"))]


def _best(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return max(rows, key=lambda row: (row["accuracy"], -row["step"]))
