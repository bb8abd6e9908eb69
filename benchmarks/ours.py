"""Our side of every benchmark, through the same calls that the stages make."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from eyas.engines.base import Request, Sampled
from eyas.engines.transformers import TransformersEngine
from eyas.losses import Head, SparseTeacher, completion_loss
from eyas.recipe import ExecutionSpec, LossSpec, SamplingSpec, ScoreSpec, TrainingSpec
from eyas.records import SequenceRecord
from eyas.storage.artifacts import StageClock
from eyas.storage.backbone import attach_loss, detach_loss
from eyas.storage.batches import StepLoader, TrainingItem
from eyas.storage.scores import TeacherScores
from eyas.storage.settings import choose_packing
from eyas.storage.training import train

Ids = list[int]
Sequences = Sequence[tuple[Ids, Ids]]

CPU = ExecutionSpec(device="cpu", trackers=(), checkpoint_every=10**6)
PLAIN = LossSpec.model_validate({"lambda": 0.0})


@dataclass(frozen=True)
class Ticking:
    """Progress that calls `turn` after every step."""

    turn: Callable[[], None]

    def start(self, total: int, *, unit: str, done: int = 0) -> None:
        """Do nothing."""

    def advance(self, amount: int = 1, *, note: str = "") -> None:
        """A step has ended."""
        self.turn()


def engine(
    model: PreTrainedModel, *, generation: int = 64, scoring: int = 16, vocabulary: int | None = None
) -> TransformersEngine:
    """The embedded engine with these batch sizes."""
    execution = CPU.model_copy(update={"generation_batch_size": generation, "scoring_batch_size": scoring})
    return TransformersEngine(model, execution=execution, vocabulary=vocabulary)


def generate(
    maker: TransformersEngine, prompts: Sequence[Ids], *, tokens: int, stop: tuple[int, ...] = (2,), seed: int = 0
) -> list[Sampled]:
    """One completion per prompt, drawn at temperature 1."""
    requests = [Request(prompt_ids=ids, seed=seed + number) for number, ids in enumerate(prompts)]
    return maker.generate(requests, sampling=SamplingSpec(max_completion_tokens=tokens), stop=stop)


def score(
    scorer: TransformersEngine, sequences: Sequences, *, top_k: int = 10, mass: float = 1.0
) -> list[TeacherScores]:
    """The teacher's top-k; by default every list is `top_k` long."""
    return scorer.score(sequences, spec=ScoreSpec(top_k=top_k, mass=mass))


def items(sequences: Sequences, scores: Sequence[TeacherScores] | None = None) -> list[TrainingItem]:
    """What the loader takes."""
    found = [
        TrainingItem(
            SequenceRecord(
                example_id=str(number), sample=0, mode="fast", source="student", prompt_ids=prompt,
                completion_ids=completion, finish_reason="stop",
            )
        )
        for number, (prompt, completion) in enumerate(sequences)
    ]  # fmt: skip
    return found if scores is None else [replace(item, scores=own) for item, own in zip(found, scores, strict=True)]


def training_loop(
    model: PreTrainedModel,
    data: Sequence[TrainingItem],
    *,
    training: TrainingSpec,
    micro_batch_size: int,
    order: Sequence[int] | None = None,
    loss: LossSpec = PLAIN,
    select: Callable[[int], None] | None = None,
) -> Callable[[Callable[[], None]], Any]:
    """A loop for `measure.Turns`: trains `model` in place on `data` in `order` (as it is, over and over, by default).

    `training.steps` says for how long; `select` is called after every step.
    """
    steps = int(training.steps or 1)
    cycle = [index % len(data) for index in range(steps * training.batch_size)]

    def loop(turn: Callable[[], None]) -> Any:
        with tempfile.TemporaryDirectory() as scratch:
            packing = choose_packing(
                model, data, order or cycle, training=training, dtype="float32", directory=Path(scratch),
                execution=CPU.model_copy(update={"micro_batch_size": micro_batch_size}),
            )  # fmt: skip
            loader = StepLoader(
                data, order or cycle, training=training, micro_batch_size=micro_batch_size,
                pad_id=int(model.config.pad_token_id or 0), packed=packing["packed"],
            )  # fmt: skip
            attach_loss(model, loss)
            try:
                return train(
                    model, loader, training=training, directory=Path(scratch), clock=StageClock(Path(scratch)),
                    execution=CPU.model_copy(update={"micro_batch_size": micro_batch_size}), progress=Ticking(turn),
                    selections=range(1, steps + 1) if select else (), select=select or (lambda _: None),
                )  # fmt: skip
            finally:
                detach_loss(model)

    return loop


def loss_call(hidden_TD: Tensor, weight_VD: Tensor, *, top_k: int) -> Callable[[], None]:
    """The loss of one micro-batch, value and gradients: forward KL to stored entries with the tail in a bucket."""
    count, vocabulary = len(hidden_TD), len(weight_VD)
    ids_NK = torch.randint(0, vocabulary // top_k, (count, top_k)) * top_k + torch.arange(top_k)  # distinct in a row
    logprobs_NO = torch.log_softmax(torch.randn(count, top_k + 1), dim=-1)
    teacher = SparseTeacher(ids_NK, logprobs_NO[:, :-1].contiguous(), logprobs_NO[:, -1], logprobs_NO[:, 0])
    labels_N, ones_N = torch.randint(0, vocabulary, (count,)), torch.ones(count)
    loss = LossSpec.model_validate({"lambda": 1.0})

    def call() -> None:
        sums = completion_loss(hidden_TD, labels_N, ones_N, ones_N, teacher, head=Head(weight_VD), loss=loss)
        sums.total.backward()

    return call
