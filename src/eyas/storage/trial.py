"""A trial of training: forward and backward over a few micro-batches, and what its speed depends on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from eyas.recipe import ExecutionSpec
from eyas.storage.hardware import training_memory


@dataclass(frozen=True)
class Trial:
    """Leaves weights, random streams and gradients (none) alone."""

    model: nn.Module
    micro_batches: Sequence[Mapping[str, Tensor]]
    execution: ExecutionSpec

    @property
    def on_cpu(self) -> bool:
        return next(self.model.parameters()).device.type == "cpu"

    def loss(self, precision: str) -> float:
        """Sum of the loss over the micro-batches, in nats.

        Raises: OutOfMemory, which training would run into as well.
        """
        device = next(self.model.parameters()).device
        training, total = self.model.training, 0.0
        self.model.train()
        try:
            with training_memory(self.execution), torch.random.fork_rng(devices=[]):
                for micro_batch in self.micro_batches:
                    with torch.autocast(device.type, dtype=getattr(torch, precision), enabled=precision != "float32"):
                        sums = self.model(**{name: value.to(device) for name, value in micro_batch.items()})
                    sums.total.backward()
                    total += float(sums.total.detach())
        finally:
            self.model.zero_grad()
            self.model.train(training)
        return total

    def per_pass(self, seconds: float) -> float:
        """Seconds of one micro-batch, for the manifest."""
        return round(seconds / len(self.micro_batches), 5)

    def shape(self, execution: ExecutionSpec, *, dtype: str, passes: int) -> dict[str, Any]:
        """What decides the speed of a stage, apart from the machine: the model's and the work's dimensions.

        Lengths are rounded up to powers of two, since the next batch of the same data has others. The stage's `passes`
        decide nothing but whether compiling pays.
        """
        described: Any = self.model.config
        config: dict[str, Any] = json.loads(json.dumps(described.to_dict(), default=str))
        config.pop("_name_or_path", None)
        return {
            "model": config,
            "trainable": sum(value.numel() for value in self.model.parameters() if value.requires_grad),
            "tensors": [
                {name: [_rounded(size) for size in value.shape] for name, value in batch.items()}
                for batch in self.micro_batches
            ],
            "asked": [execution.threads, execution.precision, execution.compile],
            "dtype": dtype,
            "passes": passes if execution.compile == "auto" else None,
        }


def _rounded(size: int) -> int:
    """The power of two that is not smaller, 0 for 0."""
    return 1 << (size - 1).bit_length() if size > 0 else 0
