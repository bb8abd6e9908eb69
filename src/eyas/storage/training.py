"""The training loop: transformers' Trainer with our batches, our loss and checkpoints that survive a crash.

One item of the loader is one optimiser step, already cut into micro-batches, so the number of completion
tokens N that divides the loss is that of the global batch: over micro-batches and over ranks.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback

from eyas.errors import NonFiniteLoss, StorageError
from eyas.recipe import ExecutionSpec, TrainingSpec
from eyas.storage import checkpoints
from eyas.storage.artifacts import StageClock, atomic_path, disk_errors
from eyas.storage.batches import StepBatch, StepLoader
from eyas.storage.context import Progress
from eyas.storage.hardware import training_memory
from eyas.storage.models import device_of

LOGS_PER_STAGE = 100
"""Points of a training curve, about."""
TORCH_WRITER = "inline_container"
"""Source file that torch.save names in the plain RuntimeError of a failed write (caffe2/serialize)."""


@dataclass(frozen=True)
class Trained:
    """What a training run did, over all its attempts."""

    steps: int
    tokens: int
    """Prompt and completion tokens of all ranks, padding excluded."""
    log: list[dict[str, float]]


class EyasTrainer(Trainer):
    """See the module. `loader` decides order and size of every step."""

    def __init__(self, model: nn.Module, args: TrainingArguments, *, loader: StepLoader, root: Path, clock: StageClock):
        self._loader, self._root, self._clock = loader, root, clock
        self._sums: dict[str, float] = {}
        super().__init__(model=model, args=args)
        self.model_accepts_loss_kwargs = True
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> Any:
        return self._loader

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> None:
        """Counted in `training_step`."""

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: a StepBatch is no single model input."""
        return 0

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward over the step's micro-batches; the gradient is that of the global mean."""
        batch: StepBatch = inputs
        world = self.accelerator.num_processes
        count = torch.tensor(float(batch.completion_tokens), device=self.args.device)
        if world > 1:
            count = self.accelerator.reduce(count, reduction="sum")
        model.train()
        totals = torch.zeros(3, device=self.args.device)
        for number, micro_batch in enumerate(batch.micro_batches, start=1):
            last = number == len(batch.micro_batches)
            with contextlib.nullcontext() if last else self.accelerator.no_sync(model):
                with self.compute_loss_context_manager():
                    sums = model(**self._prepare_inputs(micro_batch))
                # The ranks' gradients are averaged, hence the factor.
                self.accelerator.backward(sums.total * (world / count))
            totals += torch.stack([sums.total.detach(), sums.cross_entropy, sums.divergence])
        if world > 1:
            totals = self.accelerator.reduce(totals, reduction="sum")
        loss, ce, kd = (totals / count).tolist()
        self._require_finite(loss, "loss")
        for name, value in (("ce", ce), ("kd", kd), ("points", 1.0)):
            self._sums[name] = self._sums.get(name, 0.0) + value
        return torch.tensor(loss, device=self.args.device)

    def _require_finite(self, value: float, what: str) -> None:
        if value != value or value in (float("inf"), float("-inf")):
            raise NonFiniteLoss(
                f"step {self.state.global_step + 1}: the {what} is {value}, so no update was made. Lower "
                "training.learning_rate or raise training.warmup; with bfloat16 weights try dtype: float32."
            )

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        norm = super()._clip_grad_norm(model)  # type: ignore[no-untyped-call]
        if self.accelerator.scaler is None:  # with one, an overflow is its signal to skip the step and scale down
            self._require_finite(float(norm), "gradient norm")
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the parts of the loss, averaged since the last point."""
        points = self._sums.pop("points", 0.0)
        if points:
            logs |= {name: total / points for name, total in self._sums.items()}
        self._sums = {}
        super().log(logs, start_time)

    def _get_output_dir(self, trial: Any = None) -> str:
        return str(checkpoints.draft_directory(self._root, self.state.global_step))

    def _save_checkpoint(self, model: nn.Module, trial: Any = None) -> None:
        """The Trainer's own checkpoint, but written aside and published whole."""
        draft = checkpoints.draft_directory(self._root, self.state.global_step)
        if self.args.should_save:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        with disk_errors(self._root):
            try:
                super()._save_checkpoint(model, trial)
            except RuntimeError as error:
                if TORCH_WRITER not in str(error):
                    raise
                raise StorageError(
                    f"{draft}: torch could not write it ({str(error).splitlines()[0]}). If the disk is full, free some "
                    "space, and run the same command again; it goes on from the checkpoint before."
                ) from error
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            checkpoints.publish(self._root, self.state.global_step)
            self._clock.save()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        if output_dir is not None:
            (Path(output_dir) / "training_args.bin").unlink(missing_ok=True)


class _StepCallback(TrainerCallback):
    """Moves the progress bar and calls `select` after its steps."""

    def __init__(self, progress: Progress, selections: Sequence[int], select: Callable[[int], None]) -> None:
        self._progress, self._selections, self._select = progress, set(selections), select
        self._note = ""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._progress.advance(note=self._note)
        if state.global_step in self._selections:
            self._select(state.global_step)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        if logs and "loss" in logs:
            self._note = f"loss {logs['loss']:.3f}"


def train(
    model: PreTrainedModel,
    loader: StepLoader,
    *,
    training: TrainingSpec,
    execution: ExecutionSpec,
    seed: int = 0,
    dtype: str = "float32",
    directory: Path,
    clock: StageClock,
    progress: Progress,
    selections: Sequence[int] = (),
    select: Callable[[int], None] = lambda _: None,
) -> Trained:
    """Train in place from the newest valid checkpoint in `directory`, or from the start.

    `model` is float32 and has its loss attached; `seed` is that of dropout; `dtype` is what autocast computes
    in; `select` is called after each step in `selections`, before its checkpoint.

    Raises: NonFiniteLoss, before the update; OutOfMemory, naming the setting to lower; StorageError.
    """
    root = directory / "checkpoints"
    steps = len(loader)
    args = _arguments(training, execution, root=root, steps=steps, seed=seed, dtype=dtype)
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(directory / "tensorboard")
    trainer = EyasTrainer(model, args, loader=loader, root=root, clock=clock)
    trainer.add_callback(_StepCallback(progress, selections, select))
    found = checkpoints.latest_valid(root)
    resume = next(iter(found.glob("checkpoint-*")), None) if found is not None else None
    loader.start_step = int(resume.name.removeprefix("checkpoint-")) if resume is not None else 0
    progress.start(steps, unit="steps", done=loader.start_step)
    with training_memory(execution):
        trainer.train(resume_from_checkpoint=str(resume) if resume is not None else None)
    log = [{key: value for key, value in row.items() if key != "epoch"} for row in trainer.state.log_history]
    return Trained(steps=steps, tokens=loader.tokens_until(steps), log=[row for row in log if "loss" in row])


def _arguments(
    training: TrainingSpec, execution: ExecutionSpec, *, root: Path, steps: int, seed: int, dtype: str
) -> TrainingArguments:
    """The Trainer's own options: one device, and checkpoints where a point of the curve ends.

    A resumed curve then averages over the same steps as an uninterrupted one.
    """
    logging_steps = max(1, steps // LOGS_PER_STAGE)
    args = TrainingArguments(
        output_dir=str(root),
        max_steps=steps,
        per_device_train_batch_size=1,
        learning_rate=training.learning_rate,
        lr_scheduler_type="constant_with_warmup" if training.schedule == "constant" else training.schedule,
        warmup_steps=round(training.warmup * steps),
        weight_decay=training.weight_decay,
        adam_beta1=training.betas[0],
        adam_beta2=training.betas[1],
        max_grad_norm=training.max_grad_norm,
        optim="adamw_torch_fused",
        logging_steps=logging_steps,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=-(-execution.checkpoint_every // logging_steps) * logging_steps,
        seed=seed,
        report_to=list(execution.trackers),
        ignore_data_skip=True,
        remove_unused_columns=False,
        disable_tqdm=True,
        use_cpu=device_of(execution).type == "cpu",
        dataloader_pin_memory=False,
        bf16=dtype == "bfloat16",
        fp16=dtype == "float16",
    )
    if args.n_gpu > 1:
        args._n_gpu = 1  # else the Trainer wraps the model in DataParallel, which cannot gather a LossSums
    return args


def write_log(path: Path, rows: Sequence[dict[str, float]]) -> None:
    """JSON Lines of a training curve."""
    with atomic_path(path) as draft:
        draft.write_text("".join(json.dumps(row) + "\n" for row in rows))
