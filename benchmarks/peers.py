"""The peers' side: TRL's trainers on token ids, with the options that are best on a CPU."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, ProgressCallback, TrainerCallback
from transformers.trainer_callback import PrinterCallback

import eyas.builtin

warnings.filterwarnings("ignore", module="trl|transformers|torch|accelerate")
from trl import DistillationConfig, DistillationTrainer, SFTConfig, SFTTrainer, pack_dataset  # noqa: E402
from trl.trainer.distillation_trainer import _chunked_divergence_loss  # noqa: E402

disable_progress_bars()
Ids = list[int]

CPU = {
    "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "optim": "adamw_torch_fused",
    "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "lr_scheduler_type": "constant_with_warmup",
    "max_grad_norm": 1.0, "adam_beta1": 0.9, "adam_beta2": 0.95, "dataloader_pin_memory": False,
}  # fmt: skip
"""float32, no recomputation, and the optimiser that ours uses. Without gradient checkpointing, TRL's default, because
it costs a forward pass."""


class _Ticking(TrainerCallback):
    """Calls `turn` after every optimiser step."""

    def __init__(self, turn: Callable[[], None]) -> None:
        self._turn = turn

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """A step has ended."""
        self._turn()


class IdsTrainer(DistillationTrainer):
    """Stable `DistillationTrainer` whose prompts are ids of ours, so that no text is tokenised twice.

    With `completions` it takes those instead of generating; all else, the live teacher included, is TRL's.
    """

    def __init__(self, *, prompts: Sequence[Ids], completions: Sequence[Ids] | None = None, **others: Any) -> None:
        self._prompts, self._completions = prompts, completions
        self._asked: list[int] = []
        super().__init__(train_dataset=Dataset.from_dict({"prompt": [str(n) for n in range(len(prompts))]}), **others)

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[Ids], None, dict[str, Any]]:
        self._asked = [int(text) for text in prompts]
        return [self._prompts[number] for number in self._asked], None, {}

    def _generate_single_turn(self, prompt_ids: list[Ids], *others: Any, **more: Any) -> list[Ids]:
        if self._completions is not None:
            return [self._completions[number] for number in self._asked]
        made: list[Ids] = super()._generate_single_turn(prompt_ids, *others, **more)
        return made


def distillation(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    prompts: Sequence[Ids],
    *,
    completions: Sequence[Ids] | None = None,
    batch_size: int,
    accumulation: int = 1,
    steps: int,
    tokens: int,
    learning_rate: float = 1e-5,
    beta: float = 0.0,
    schedule: str = "constant_with_warmup",
    shuffle: bool = False,
    generation: dict[str, Any] | None = None,
    seed: int = 0,
) -> Callable[[Callable[[], None]], Any]:
    """A loop for `measure.Turns`: on-policy, or on `completions`; `batch_size` sequences per optimiser step."""

    def loop(turn: Callable[[], None]) -> Any:
        with tempfile.TemporaryDirectory() as scratch:
            args = DistillationConfig(
                output_dir=scratch,
                per_device_train_batch_size=batch_size // accumulation,
                gradient_accumulation_steps=accumulation,
                max_steps=steps,
                learning_rate=learning_rate,
                max_completion_length=tokens,
                beta=beta,
                shuffle_dataset=shuffle,
                generation_kwargs=generation,
                seed=seed,
                logging_steps=10**6,
                **CPU | {"lr_scheduler_type": schedule, "warmup_steps": round(0.03 * steps)},
            )
            trainer = IdsTrainer(
                prompts=prompts, completions=completions, model=student, teacher_model=teacher, args=args,
                processing_class=_tokenizer(),
            )  # fmt: skip
            _quiet(trainer, turn)
            return trainer.train()

    return loop


def sft(
    model: PreTrainedModel,
    sequences: Sequence[tuple[Ids, Ids]],
    *,
    batch_size: int,
    accumulation: int = 1,
    steps: int,
    learning_rate: float = 1e-5,
    packing: bool = False,
    padding_free: bool = False,
    max_length: int | None = 512,
    bucketed: bool = False,
) -> Callable[[Callable[[], None]], Any]:
    """A loop for `measure.Turns`; with `packing`, `batch_size` counts rows of `max_length` tokens."""
    data = Dataset.from_dict(
        {
            "input_ids": [prompt + completion for prompt, completion in sequences],
            "completion_mask": [[0] * len(prompt) + [1] * len(completion) for prompt, completion in sequences],
        }
    )

    def loop(turn: Callable[[], None]) -> Any:
        with tempfile.TemporaryDirectory() as scratch:
            args = SFTConfig(
                output_dir=scratch,
                per_device_train_batch_size=batch_size // accumulation,
                gradient_accumulation_steps=accumulation,
                max_steps=steps,
                learning_rate=learning_rate,
                packing=packing,
                padding_free=padding_free,
                max_length=max_length,
                completion_only_loss=True,
                train_sampling_strategy="group_by_length" if bucketed else "random",
                logging_steps=10**6,
                **CPU,
            )
            trainer = SFTTrainer(model=model, args=args, train_dataset=data, processing_class=_tokenizer())
            _quiet(trainer, turn)
            return trainer.train()

    return loop


def chunked_loss(student_TD: Tensor, teacher_TD: Tensor, student_VD: Tensor, teacher_VD: Tensor) -> Tensor:
    """Forward KL of the loss function in TRL's stable DistillationTrainer, mean over tokens."""
    mask_1T = torch.ones(1, len(student_TD), dtype=torch.long)
    loss: Tensor = _chunked_divergence_loss(student_TD[None], teacher_TD[None], student_VD, teacher_VD, mask_1T, 0.0)[0]
    return loss


def packed_rows(sequences: Sequence[tuple[Ids, Ids]], *, max_length: int) -> int:
    """Rows into which TRL packs the sequences."""
    data = Dataset.from_dict({"input_ids": [prompt + completion for prompt, completion in sequences]})
    return len(pack_dataset(data, max_length, "bfd"))


def _quiet(trainer: Any, turn: Callable[[], None]) -> None:
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Ticking(turn))


def _tokenizer() -> Any:
    """The embedded pair's, because TRL wants a tokenizer; every id is given."""
    return AutoTokenizer.from_pretrained(str(Path(eyas.builtin.__file__).parent / "tokenizer"), padding_side="left")
