"""A training stage on sequences that can be told apart, with a record of what each optimiser step has seen."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from test_sequences import artifact, context

from eyas.curriculum import training_order
from eyas.recipe import CurriculumSpec, ExecutionSpec, SftStage
from eyas.records import Mode, SequenceRecord
from eyas.stages import sft
from eyas.storage import training
from eyas.storage.batches import TrainingItem
from eyas.storage.difficulty import keys_of
from eyas.storage.shards import write_shard

EXAMPLES, STEPS, BATCH = 24, 8, 6
FIRST_MARKER = 100
"""Example n's prompt begins with token FIRST_MARKER + n, which stands nowhere else."""
SHARES: dict[Mode, float] = {"reasoning": 2, "fast": 1}


class RecordingTrainer(training.EyasTrainer):
    """Appends a line per optimiser step to `seen-RANK.jsonl`: the examples of all forward passes since the last."""

    kill_at: int | None = None
    """Optimiser steps after which the process kills itself, in the middle of the next one."""

    def __init__(self, model: Any, args: Any, **rest: Any) -> None:
        super().__init__(model, args, **rest)
        self._passes: list[list[list[int]]] = []
        self._weights: dict[int, list[float]] = {}
        model.register_forward_pre_hook(self._see, with_kwargs=True)

    def _see(self, _: Any, __: Any, inputs: dict[str, torch.Tensor]) -> None:
        rows = inputs["input_ids"].tolist()
        self._note_weights(rows, inputs)
        self._passes.append([[token - FIRST_MARKER for token in row if token >= FIRST_MARKER] for row in rows])

    def _note_weights(self, rows: list[list[int]], inputs: dict[str, torch.Tensor]) -> None:
        """Whose completion a position is in follows from the last marker before it."""
        for position, weight in zip(inputs["positions_N"].tolist(), inputs["weights_N"].tolist(), strict=True):
            row, column = divmod(position, len(rows[0]))
            number = next(token - FIRST_MARKER for token in reversed(rows[row][: column + 1]) if token >= FIRST_MARKER)
            if weight not in self._weights.setdefault(number, []):
                self._weights[number].append(weight)

    def create_optimizer(self, *args: Any, **rest: Any) -> Any:
        optimiser = super().create_optimizer(*args, **rest)
        self.optimizer.register_step_post_hook(lambda *_: self._write())  # type: ignore[union-attr]
        return optimiser

    def _write(self) -> None:
        path = self._root.parent / f"seen-{self.args.process_index}.jsonl"
        with path.open("a") as file:
            line = {"step": self.state.global_step, "passes": self._passes, "weights": self._weights}
            file.write(json.dumps(line) + "\n")
        self._passes, self._weights = [], {}

    def training_step(self, *args: Any, **rest: Any) -> torch.Tensor:
        loss = super().training_step(*args, **rest)
        if self.state.global_step == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return loss


def seen(directory: Path, *, rank: int = 0) -> list[dict[str, Any]]:
    """The lines of a rank in the order they were written."""
    return [json.loads(line) for line in (directory / f"seen-{rank}.jsonl").read_text().splitlines()]


def examples(line: dict[str, Any]) -> Counter[int]:
    """Which examples an optimiser step has seen how often."""
    return Counter(number for rows in line["passes"] for row in rows for number in row)


def sequence_records() -> list[SequenceRecord]:
    """Of many lengths, half of them reasoning."""
    return [
        SequenceRecord(
            example_id=str(number), sample=0, mode="reasoning" if number % 2 else "fast", source="teacher",
            prompt_ids=[FIRST_MARKER + number, *range(5, 7 + number % 3)],
            completion_ids=[10 + (number * step) % 50 for step in range(2 + number % 7)], finish_reason="stop",
        )
        for number in range(EXAMPLES)
    ]  # fmt: skip


def rollout_records() -> list[SequenceRecord]:
    """Eight graded rollouts of each example; the higher its number, the more of them are right."""
    return [
        replace(record, sample=sample, grade=float(sample < number // 3))
        for number, record in enumerate(sequence_records())
        for sample in range(8)
    ]


def decided(order: str) -> list[Counter[int]]:
    """The examples of each step as the schedule gives them, from hand-made pass rates."""
    indices = training_order(
        keys_of([TrainingItem(record) for record in sequence_records()]),
        spec=CurriculumSpec.model_validate({"order": order}),
        ease={(record.example_id, record.mode): (n // 3 + 1) / 10 for n, record in enumerate(sequence_records())},
        modes=SHARES,
        seed=0,
        steps=STEPS,
        batch_size=BATCH,
    )
    return [Counter(indices[start : start + BATCH]) for start in range(0, len(indices), BATCH)]


def train_recorded(
    model: Path,
    root: Path,
    *,
    order: str,
    packing: bool = False,
    micro_batch_size: int = BATCH,
    signal: str = "",
    weight: str = "uniform",
) -> Path:
    """Run an sft stage from `model` in `root`, with checkpoints every two steps; its directory."""
    for name, records in {"sequences": sequence_records(), "pass_rates": rollout_records()}.items():
        if not (root / name).exists():
            write_shard(root / name / "sequences", 0, records, kind=SequenceRecord)
    inputs = {name: artifact(root / name) for name in (("sequences",) if signal else ("sequences", "pass_rates"))}
    inputs["model"] = artifact(model.parent, dtype="float32")
    stage = SftStage.model_validate(
        {
            "type": "sft",
            "sequences": "sequences",
            "modes": SHARES,
            "training": {"batch_size": BATCH, "steps": STEPS, "packing": packing},
            "curriculum": {"order": order, "weight": weight}
            | ({"signal": signal} if signal else {"rollouts": "pass_rates"}),
        }
    )
    made = context(root / "sft", inputs)
    execution = ExecutionSpec(
        micro_batch_size=micro_batch_size, checkpoint_every=2, device="cpu", threads=1, trackers=()
    )
    sft.run(stage, replace(made, recipe=made.recipe.model_copy(update={"execution": execution})))
    return root / "sft"
