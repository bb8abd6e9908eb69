"""How a training stage computes on this machine: packing, threads, precision, compilation; decided once, written down.

What the recipe says is taken. What it leaves to `auto` is measured on the stage's own first micro-batches, written to
`execution.json` before the first step, and read from there by every later attempt: a resumed run computes what an
uninterrupted one does, and a stage never changes its mind because the machine was busy. Two workspaces on one machine
agree through the machine's memory (`remembered`, storage/probe.py).
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from subprocess import SubprocessError
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from eyas.errors import TrainingError
from eyas.packing import packing_gain
from eyas.recipe import ExecutionSpec, TrainingSpec
from eyas.storage.artifacts import read_json, write_json
from eyas.storage.batches import TrainingItem
from eyas.storage.hardware import core_count, has_fast_bfloat16
from eyas.storage.probe import (
    best_seconds,
    fewest_fast_threads,
    probe_packing,
    remembered,
    seconds_by_threads,
    using_threads,
)

FILE = "execution.json"
LOSS_TOLERANCE = 0.01
"""Largest relative difference of the micro-batches' loss, bfloat16 against float32. It rounds by 1/256 an operation,
which over a batch averages out to some tenths of a percent."""
LEAST_GAIN = 1.1
"""bfloat16 changes the numerics, so it has to be worth it."""
TRIAL_PASSES = 2
"""Micro-batches of a trial."""

COMPILE_SECONDS = 120.0
"""A stage that trains for less is not worth the trial: compiling took 20 to 45 s here and saved 4 to 25 % (LOG.md)."""
COMPILE_ERRORS = (RuntimeError, OSError, ImportError, AttributeError, TypeError, AssertionError, SubprocessError)
"""How torch.compile fails: no compiler, code it cannot trace, bugs of its own; torch has no common class for them."""

Compile = Callable[[bool], None]
"""Switches torch.compile on or off in the model under trial."""
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """Equal settings on one machine give equal bits."""

    threads: int
    precision: str
    """What autocast computes in; float32 is no autocast."""
    compiled: bool


def choose_packing(
    model: PreTrainedModel,
    items: Sequence[TrainingItem],
    order: Sequence[int],
    *,
    training: TrainingSpec,
    micro_batch_size: int,
    precision: str,
    directory: Path,
) -> dict[str, Any]:
    """{packed, reason, difference}: whether micro-batches are packed rows, unless an earlier attempt decided.

    With `auto` on a CPU they are not where the first step's padding is estimated to cost less than keeping sequences
    apart, as in tiny models. Else they are if the model computes the same in a packed row, tried on the longest
    sequence between one of median length and the shortest.

    Raises: TrainingError, if the recipe says `packing: true` and the model does not compute the same in packed rows.
    """
    if training.packing is False:
        return {"packed": False, "reason": "the recipe says so", "difference": None}
    known = _read(directory).get("packing")
    if known is not None:
        return dict(known)
    if training.packing == "auto" and next(model.parameters()).device.type == "cpu":
        first = [items[index].length for index in order[: training.batch_size]]
        layer_parameters = model.num_parameters(exclude_embeddings=True) / model.config.num_hidden_layers
        gain = packing_gain(first, micro_batch_size=micro_batch_size, layer_parameters=layer_parameters)
        if gain <= 0:
            reason = f"padding costs less: by {-gain:.0f} of {sum(first)} tokens in the first step"
            return _keep(directory, packed=False, reason=reason, difference=None)
    by_length = sorted(items, key=lambda item: item.length)
    tried = [by_length[place].sequence for place in (len(items) // 2, -1, 0)]
    found = probe_packing(model, [one.prompt_ids + one.completion_ids for one in tried], precision=precision)
    if training.packing is True and not found.equal:
        raise TrainingError(
            f"training.packing is true, but {found.reason}. Set it to auto or false: sequences are then padded."
        )
    if not found.equal:
        _logger.warning("sequences are padded, not packed: %s", found.reason)
    return _keep(directory, packed=found.equal, reason=found.reason, difference=found.difference)


def _keep(directory: Path, **choice: Any) -> dict[str, Any]:
    _write(directory, packing=choice)
    return choice


def choose_settings(
    model: nn.Module,
    micro_batches: Sequence[Mapping[str, Tensor]],
    *,
    execution: ExecutionSpec,
    dtype: str,
    passes: int,
    compile_model: Compile,
    directory: Path,
) -> tuple[Settings, dict[str, Any]]:
    """What the recipe or an earlier attempt says, else what is measured on `micro_batches`, and what was measured.

    `dtype` is the model's own type, the precision by default, and `passes` are the micro-batches of the whole stage.
    `auto` is the default on accelerators and, for the precision, with a model in float16. `model` is as before
    afterwards, except that `compile_model` has switched compilation as the settings say.
    """
    trial = _Trial(model, micro_batches[:TRIAL_PASSES])
    asked = execution.threads == "auto" or execution.precision == "auto" or execution.compile == "auto"
    known: dict[str, Any] = _read(directory).get("settings", {})
    if asked and not known and trial.on_cpu:
        shape = _shape(model, trial.micro_batches, execution=execution, dtype=dtype, passes=passes)
        known = remembered(
            shape, lambda: _measure(trial, execution=execution, dtype=dtype, passes=passes, compile_model=compile_model)
        )
        _write(directory, settings=known)
    settings = _resolve(execution, known, dtype=dtype)
    compile_model(False)
    facts: dict[str, Any] = {"measured": known.get("measured", {})}
    if settings.compiled:
        reason = _compile_error(trial, settings, compile_model)
        if reason is not None:
            settings = Settings(settings.threads, settings.precision, compiled=False)
            facts["compile_failed"] = reason
    return settings, asdict(settings) | facts


def _resolve(execution: ExecutionSpec, known: Mapping[str, Any], *, dtype: str) -> Settings:
    threads, precision, compiled = execution.threads, execution.precision, execution.compile
    return Settings(
        threads=threads if isinstance(threads, int) else int(known.get("threads", core_count())),
        precision=str(known.get("precision", dtype)) if precision in (None, "auto") else str(precision),
        compiled=bool(known.get("compiled", False)) if compiled == "auto" else bool(compiled),
    )


def _measure(
    trial: _Trial, *, execution: ExecutionSpec, dtype: str, passes: int, compile_model: Compile
) -> dict[str, Any]:
    """The choices left to `auto`, one after another, each with those before it, and the seconds of a pass."""
    chosen = _resolve(execution, {}, dtype=dtype)
    measured: dict[str, Any] = {}
    if execution.threads == "auto":
        seconds = seconds_by_threads(lambda: trial.loss(chosen.precision))
        measured["seconds_by_threads"] = {str(count): _per_pass(value, trial) for count, value in seconds.items()}
        chosen = Settings(fewest_fast_threads(seconds), chosen.precision, chosen.compiled)
    with using_threads(chosen.threads):
        if execution.precision == "auto" and dtype != "float16" and has_fast_bfloat16():
            precision, found = _faster_precision(trial)
            measured |= found
            chosen = Settings(chosen.threads, precision, chosen.compiled)
        if execution.compile == "auto":
            compiled, found = _worth_compiling(trial, chosen, passes=passes, compile_model=compile_model)
            measured |= found
            chosen = Settings(chosen.threads, chosen.precision, compiled)
    return asdict(chosen) | {"measured": measured}


def _faster_precision(trial: _Trial) -> tuple[str, dict[str, Any]]:
    exact, rounded = trial.loss("float32"), trial.loss("bfloat16")
    difference = abs(rounded - exact) / max(abs(exact), 1e-9)
    slow = best_seconds(lambda: trial.loss("float32"))
    fast = best_seconds(lambda: trial.loss("bfloat16"))
    better = slow >= LEAST_GAIN * fast and difference <= LOSS_TOLERANCE
    return "bfloat16" if better else "float32", {
        "seconds_float32": _per_pass(slow, trial),
        "seconds_bfloat16": _per_pass(fast, trial),
        "loss_difference": round(difference, 6),
    }


def _worth_compiling(
    trial: _Trial, chosen: Settings, *, passes: int, compile_model: Compile
) -> tuple[bool, dict[str, Any]]:
    eager = best_seconds(lambda: trial.loss(chosen.precision))
    if eager / len(trial.micro_batches) * passes < COMPILE_SECONDS:
        return False, {"seconds_eager": _per_pass(eager, trial)}
    started = perf_counter()
    error = _compile_error(trial, chosen, compile_model)
    if error is not None:
        return False, {"compile_failed": error}
    cost = perf_counter() - started
    compiled = best_seconds(lambda: trial.loss(chosen.precision))
    saved = (eager - compiled) / len(trial.micro_batches) * passes
    return saved > cost, {
        "seconds_eager": _per_pass(eager, trial),
        "seconds_compiled": _per_pass(compiled, trial),
        "compile_seconds": round(cost, 3),
    }


def _compile_error(trial: _Trial, settings: Settings, compile_model: Compile) -> str | None:
    """Switch compilation on and try it; what went wrong, if anything did, and then it is off again.

    It is tried even where it was chosen before: this attempt's machine may have no compiler.
    """
    try:
        compile_model(True)
        trial.loss(settings.precision)
    except COMPILE_ERRORS as error:
        compile_model(False)
        lines = str(error).strip().splitlines() or [type(error).__name__]
        _logger.warning("torch.compile failed, training goes on without it: %s", lines[0])
        return lines[0][:300]
    return None


@dataclass(frozen=True)
class _Trial:
    """Forward and backward over a few micro-batches; leaves weights, random streams and gradients (none) alone."""

    model: nn.Module
    micro_batches: Sequence[Mapping[str, Tensor]]

    @property
    def on_cpu(self) -> bool:
        return next(self.model.parameters()).device.type == "cpu"

    def loss(self, precision: str) -> float:
        """Sum of the loss over the micro-batches, in nats."""
        device = next(self.model.parameters()).device
        autocast = torch.autocast(device.type, dtype=getattr(torch, precision), enabled=precision != "float32")
        training, total = self.model.training, 0.0
        self.model.train()
        try:
            with torch.random.fork_rng(devices=[]):
                for micro_batch in self.micro_batches:
                    with autocast if precision != "float32" else contextlib.nullcontext():
                        sums = self.model(**{name: value.to(device) for name, value in micro_batch.items()})
                    sums.total.backward()
                    total += float(sums.total.detach())
        finally:
            self.model.zero_grad()
            self.model.train(training)
        return total


def _per_pass(seconds: float, trial: _Trial) -> float:
    return round(seconds / len(trial.micro_batches), 5)


def _shape(
    model: nn.Module,
    micro_batches: Sequence[Mapping[str, Tensor]],
    *,
    execution: ExecutionSpec,
    dtype: str,
    passes: int,
) -> dict[str, Any]:
    """What decides the speed of a stage, apart from the machine: the model's and the work's dimensions."""
    described: Any = model.config
    config: dict[str, Any] = json.loads(json.dumps(described.to_dict(), default=str))
    config.pop("_name_or_path", None)
    return {
        "model": config,
        "trainable": sum(value.numel() for value in model.parameters() if value.requires_grad),
        "tensors": [{name: list(value.shape) for name, value in batch.items()} for batch in micro_batches],
        "asked": [execution.threads, execution.precision, execution.compile],
        "dtype": dtype,
        "passes": passes,
    }


def _read(directory: Path) -> dict[str, Any]:
    path = directory / FILE
    return dict(read_json(path)) if path.is_file() else {}


def _write(directory: Path, **choice: Any) -> None:
    write_json(directory / FILE, _read(directory) | choice)
