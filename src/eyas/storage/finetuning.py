"""What sft and distill share: from training items and a budget to saved weights and facts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from eyas.curriculum import PassRates
from eyas.errors import DataError
from eyas.recipe import CurriculumSpec, LossSpec, SelectionSpec, TrainingSpec
from eyas.records import Mode, seed_for
from eyas.selection import select
from eyas.storage.artifacts import read_json, write_json
from eyas.storage.backbone import attach_loss, detach_loss
from eyas.storage.batches import StepLoader, TrainingItem
from eyas.storage.candidates import Candidates, Validate
from eyas.storage.context import Progress, StageContext
from eyas.storage.difficulty import decided_order, rate_facts, weighted
from eyas.storage.models import device_of, load_model, save_model
from eyas.storage.probe import using_threads
from eyas.storage.settings import choose_packing, choose_settings
from eyas.storage.tokenization import load_tokenizer
from eyas.storage.training import train, write_log


def fit_length(items: Sequence[TrainingItem], *, max_length: int) -> tuple[list[TrainingItem], int]:
    """(items of at most `max_length` tokens, how many were longer).

    Raises: DataError, if none is left.
    """
    kept = [item for item in items if item.length <= max_length]
    if not kept:
        raise DataError(
            f"nothing to train on: {len(items)} sequences, all longer than training.max_length {max_length} "
            "(or none at all). Raise it, or look at what the stages before made."
        )
    return kept, len(items) - len(kept)


def selected(
    items: Sequence[TrainingItem],
    *,
    spec: SelectionSpec,
    stage: str,
    delta_ifds: Sequence[float | None] | None = None,
) -> tuple[list[TrainingItem], dict[str, int]]:
    """(items that `eyas.selection.select` keeps, reason -> how many it left out).

    Raises: DataError, if none is left.
    """
    made = select([item.sequence for item in items], spec=spec, delta_ifds=delta_ifds)
    if not made.kept:
        counts = ", ".join(f"{reason} {number}" for reason, number in made.dropped.most_common())
        settings = ", ".join(f"{name}: {value}" for name, value in spec.model_dump(exclude_none=True).items())
        raise DataError(
            f"stage {stage!r}: `selection` {{{settings}}} leaves none of {len(items)} sequences to train on "
            f"(dropped: {counts}). Loosen it, or look at what the stages before made."
        )
    return [items[index] for index in made.kept], dict(made.dropped)


def planned_steps(context: StageContext, decide: Callable[[], int]) -> int:
    """The number of steps, decided once and kept for every later attempt."""
    path = context.directory / "plan.json"
    if not path.is_file():
        write_json(path, {"steps": decide()})
    return int(read_json(path)["steps"])


def finetune(
    items: Sequence[TrainingItem],
    *,
    context: StageContext,
    training: TrainingSpec,
    loss: LossSpec,
    curriculum: CurriculumSpec,
    rates: PassRates,
    modes: Mapping[Mode, float] | None,
    steps: int,
    card: str,
    temperature: float = 1.0,
    selections: Sequence[int] = (),
    validate: Validate | None = None,
) -> dict[str, Any]:
    """Train from the context's input model on `items`, write `model/` and `log.jsonl`, return the facts.

    Weights are trained in float32, with autocast where the model's own type is narrower or the recipe's execution says
    so, and saved in the model's type.

    `temperature` is the one that the teacher was scored at.

    With `validate` the weights after each step in `selections` are candidates and the best one is saved.

    Raises: DataError, if no item is in the modes; NonFiniteLoss; OutOfMemory; ModelError.
    """
    seed = seed_for(context.recipe.seed, "training") % 2**32
    torch.manual_seed(seed)
    path = context.model_path()
    tokenizer = load_tokenizer(path)
    model = load_model(path, dtype="float32", device=device_of(context.execution))
    dtype = context.model_dtype()
    items = weighted(items, curriculum=curriculum, rates=rates)
    order = decided_order(
        items,
        curriculum=curriculum,
        rates=rates,
        modes=modes,
        seed=context.recipe.seed,
        steps=steps,
        batch_size=training.batch_size,
    )
    packing = choose_packing(
        model,
        items,
        order,
        training=training,
        execution=context.execution,
        dtype=dtype,
        directory=context.directory,
    )
    loader = StepLoader(
        items,
        order,
        training=training,
        micro_batch_size=context.execution.micro_batch_size,
        pad_id=int(tokenizer.pad_token_id or 0),
        packed=packing["packed"],
    )
    attach = partial(attach_loss, model, loss, temperature=temperature)
    attach()
    trainable = _with_lora(model, training)
    first = loader.step(0).micro_batches
    settings, execution = choose_settings(
        trainable,
        first,
        execution=context.execution,
        dtype=dtype,
        passes=steps * len(first),
        compile_model=lambda compiled: attach(compiled=compiled),
        directory=context.directory,
    )
    candidates = Candidates(context.directory / "candidates", trainable)
    pace = _Pace(context.progress)
    with using_threads(settings.threads):
        trained = train(
            trainable,
            loader,
            training=training,
            execution=context.execution,
            seed=seed,
            dtype=settings.precision,
            directory=context.directory,
            clock=context.clock,
            progress=pace,
            selections=selections,
            select=lambda step: candidates.consider(step, model, validate),
        )
    chosen = candidates.restore_best(selections) if validate is not None else {}
    detach_loss(model)
    merged = trainable.merge_and_unload() if training.lora is not None else model
    save_model(merged.to(getattr(torch, dtype)), tokenizer, context.directory / "model", card=card)
    write_log(context.directory / "log.jsonl", trained.log)
    return {
        "dtype": dtype,
        "steps": trained.steps,
        "tokens": trained.tokens,
        "sequences": len(items),
        "tokens_per_second": pace.tokens_per_second(loader.tokens_until),
        "execution": execution | {"packing": packing},
        "pass_rates": rate_facts(items, rates=rates),
    } | chosen


def _with_lora(model: PreTrainedModel, training: TrainingSpec) -> Any:
    """The model itself, or peft's wrapper with adapters on every linear layer but the head."""
    if training.lora is None:
        return model
    from peft import LoraConfig, get_peft_model

    return get_peft_model(
        model,
        LoraConfig(
            r=training.lora.rank,
            lora_alpha=training.lora.alpha,
            lora_dropout=training.lora.dropout,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        ),
    )


class _Pace:
    """Hands progress on and notes when steps ended, so that a stage's start-up does not count as slow training."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._first = 0
        self._ends: list[float] = []

    def start(self, total: int, *, unit: str, done: int = 0) -> None:
        self._first, self._ends = done, []
        self._progress.start(total, unit=unit, done=done)

    def advance(self, amount: int = 1, *, note: str = "") -> None:
        self._ends.append(time.monotonic())
        self._progress.advance(amount, note=note)

    def tokens_per_second(self, tokens_until: Callable[[int], int]) -> float | None:
        """From the end of this attempt's first step to that of its last; None after fewer than two steps."""
        if len(self._ends) < 2:
            return None
        tokens = tokens_until(self._first + len(self._ends)) - tokens_until(self._first + 1)
        return tokens / max(self._ends[-1] - self._ends[0], 1e-9)
