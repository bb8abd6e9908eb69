"""How a training stage computes on this machine: packing, threads, precision, compilation; decided once, written down.

What the recipe says is taken. What it leaves to `auto` is measured on the stage's own first micro-batches, written to
`execution.json` before the first step, and read from there by every later attempt: a resumed run computes what an
uninterrupted one does, and a stage never changes its mind because the machine was busy. Two workspaces on one machine
agree through the machine's memory (`remembered`, storage/probe.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
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
from eyas.storage.attention import packed_implementation
from eyas.storage.batches import TrainingItem
from eyas.storage.hardware import training_memory
from eyas.storage.probe import (
    best_seconds,
    fewest_fast_threads,
    probe_packing,
    remembered,
    seconds_by_threads,
    thread_counts,
    using_threads,
)
from eyas.storage.processor import core_count, has_fast_bfloat16
from eyas.storage.trial import Trial

FILE = "execution.json"
LOSS_TOLERANCE = 0.01
"""Largest relative difference of the micro-batches' loss, bfloat16 against float32. It rounds by 1/256 an operation,
which over a batch averages out to some tenths of a percent."""
LEAST_GAIN = 1.1
"""bfloat16 changes the numerics, so it has to be worth it."""
TRIAL_PASSES = 2
"""Micro-batches of a trial."""
WORTH = 3
"""A stage that trains on fewer than this many times the micro-batches of the trials does without them."""
CHOICES = ("threads", "precision", "compile")
"""What the recipe's execution may leave to `auto`, apart from packing."""
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
    compile: bool


def choose_packing(
    model: PreTrainedModel,
    items: Sequence[TrainingItem],
    order: Sequence[int],
    *,
    training: TrainingSpec,
    execution: ExecutionSpec,
    dtype: str,
    directory: Path,
) -> dict[str, Any]:
    """{packed, reason, difference, device}: whether micro-batches are packed rows, unless decided before on such a
    device.

    With `auto` on a CPU they are not where the first step's padding is estimated to cost less than keeping sequences
    apart, as in tiny models, and not on an accelerator where that would take a mask quadratic in the row. Else they are
    if the model computes the same in a packed row, tried on the longest sequence between one of median length and the
    shortest.

    Raises: TrainingError, if the recipe says `packing: true` and the model does not compute the same in packed rows;
    OutOfMemory.
    """
    device = next(model.parameters()).device
    keep = partial(_keep, directory, device=device.type)
    if training.packing is False:
        return {"packed": False, "reason": "the recipe says so", "difference": None, "device": device.type}
    known = _read(directory).get("packing", {})
    if known.get("device") == device.type and (known["packed"] or training.packing == "auto"):
        return dict(known)
    precision = precision_of(execution, dtype=dtype)
    if training.packing == "auto":
        reason = _reason_to_pad(
            model, [items[index].length for index in order[: training.batch_size]],
            micro_batch_size=execution.micro_batch_size, precision=precision,
        )  # fmt: skip
        if reason is not None:
            return keep(packed=False, reason=reason, difference=None)
    by_length = sorted(items, key=lambda item: item.length)
    tried = [by_length[place].sequence for place in (len(items) // 2, -1, 0)]
    with training_memory(execution):
        found = probe_packing(model, [one.prompt_ids + one.completion_ids for one in tried], precision=precision)
    if training.packing is True and not found.equal:
        raise TrainingError(
            f"training.packing is true, but {found.reason}. Set it to auto or false: sequences are then padded."
        )
    if not found.equal:
        _logger.warning("sequences are padded, not packed: %s", found.reason)
    return keep(packed=found.equal, reason=found.reason, difference=found.difference)


def _reason_to_pad(
    model: PreTrainedModel, first: Sequence[int], *, micro_batch_size: int, precision: str
) -> str | None:
    """Why sequences of the `first` step's lengths are better padded, if they are, before anything is tried."""
    device = next(model.parameters()).device
    if packed_implementation(device, getattr(torch, precision)) is None:
        return f"no flash attention for {precision} on {device.type}: packed rows would take a mask quadratic in them"
    if device.type != "cpu":
        return None
    layer_parameters = model.num_parameters(exclude_embeddings=True) / model.config.num_hidden_layers
    gain = packing_gain(first, micro_batch_size=micro_batch_size, layer_parameters=layer_parameters)
    return None if gain > 0 else f"padding costs less: by {-gain:.0f} of {sum(first)} tokens in the first step"


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
    """What the recipe says, else an earlier attempt, else what is measured on `micro_batches`; and what was measured.

    `dtype` is the model's own type, the precision by default, and `passes` are the micro-batches of the whole stage.
    `auto` is the default on accelerators, for a stage too short to repay the trial and, for the precision, with a model
    in float16. `model` is as before afterwards, except that `compile_model` has switched compilation as the settings
    say.

    Raises: OutOfMemory.
    """
    trial = Trial(model, micro_batches[:TRIAL_PASSES], execution)
    asked = [name for name in CHOICES if getattr(execution, name) == "auto"]
    kept: dict[str, Any] = _read(directory).get("settings", {})
    known = {name: kept[name] for name in asked if name in kept}
    measured: dict[str, Any] = kept.get("measured", {}) if known else {}
    if trial.on_cpu and len(known) < len(asked):
        execution = execution.model_copy(update=known)
        short = [name for name in asked if name not in known and passes < _least_passes(name, trial)]
        defaults = _resolve(execution, dtype=dtype)
        known |= {name: getattr(defaults, name) for name in short}
        measured = measured | ({"too_short_to_try": short} if short else {})
        execution = execution.model_copy(update=known)
        if len(known) < len(asked):
            found = remembered(
                trial.shape(execution, dtype=dtype, passes=passes),
                lambda: _measure(trial, execution, dtype=dtype, passes=passes, compile_model=compile_model),
            )
            known |= {name: found[name] for name in asked if name not in known}
            measured = measured | found["measured"]
        _write(directory, settings=kept | known | {"measured": measured})
    settings = _resolve(execution.model_copy(update=known), dtype=dtype)
    compile_model(False)
    facts: dict[str, Any] = {"measured": measured}
    if settings.compile:
        with using_threads(settings.threads):
            reason = _compile_error(trial, settings, compile_model)
        if reason is not None:
            settings = replace(settings, compile=False)
            facts["compile_failed"] = reason
    return settings, asdict(settings) | facts


def _least_passes(name: str, trial: Trial) -> int:
    """The micro-batches that a stage must have for trying threads or precision to be WORTH it; compiling asks itself.

    Each way is tried by one call that is not counted and two that are.
    """
    ways = {"threads": len(thread_counts()), "precision": 2, "compile": 0}[name]
    return WORTH * ways * 3 * len(trial.micro_batches)


def _resolve(execution: ExecutionSpec, *, dtype: str) -> Settings:
    """What the recipe says, with the defaults for `auto`."""
    return Settings(
        threads=execution.threads if isinstance(execution.threads, int) else core_count(),
        precision=precision_of(execution, dtype=dtype),
        compile=execution.compile is True,
    )


def precision_of(execution: ExecutionSpec, *, dtype: str) -> str:
    """What training computes in before anything is measured: what the recipe says, else the model's own type."""
    return dtype if execution.precision in (None, "auto") else execution.precision


def _measure(
    trial: Trial, execution: ExecutionSpec, *, dtype: str, passes: int, compile_model: Compile
) -> dict[str, Any]:
    """The choices left to `auto`, one after another, each with those before it, and the seconds of a pass."""
    chosen = _resolve(execution, dtype=dtype)
    measured: dict[str, Any] = {}
    if execution.threads == "auto":
        seconds = seconds_by_threads(lambda: trial.loss(chosen.precision))
        measured["seconds_by_threads"] = {str(count): trial.per_pass(value) for count, value in seconds.items()}
        chosen = replace(chosen, threads=fewest_fast_threads(seconds))
    with using_threads(chosen.threads):
        if execution.precision == "auto" and dtype != "float16" and has_fast_bfloat16():
            precision, found = _faster_precision(trial)
            measured |= found
            chosen = replace(chosen, precision=precision)
        if execution.compile == "auto":
            compiled, found = _worth_compiling(trial, chosen, passes=passes, compile_model=compile_model)
            measured |= found
            chosen = replace(chosen, compile=compiled)
    return asdict(chosen) | {"measured": measured}


def _faster_precision(trial: Trial) -> tuple[str, dict[str, Any]]:
    exact, rounded = trial.loss("float32"), trial.loss("bfloat16")
    difference = abs(rounded - exact) / max(abs(exact), 1e-9)
    slow = best_seconds(lambda: trial.loss("float32"))
    fast = best_seconds(lambda: trial.loss("bfloat16"))
    better = slow >= LEAST_GAIN * fast and difference <= LOSS_TOLERANCE
    return "bfloat16" if better else "float32", {
        "seconds_float32": trial.per_pass(slow),
        "seconds_bfloat16": trial.per_pass(fast),
        "loss_difference": round(difference, 6),
    }


def _worth_compiling(
    trial: Trial, chosen: Settings, *, passes: int, compile_model: Compile
) -> tuple[bool, dict[str, Any]]:
    eager = best_seconds(lambda: trial.loss(chosen.precision))
    if eager / len(trial.micro_batches) * passes < COMPILE_SECONDS:
        return False, {"seconds_eager": trial.per_pass(eager)}
    started = perf_counter()
    error = _compile_error(trial, chosen, compile_model)
    if error is not None:
        return False, {"compile_failed": error}
    cost = perf_counter() - started
    compiled = best_seconds(lambda: trial.loss(chosen.precision))
    saved = (eager - compiled) / len(trial.micro_batches) * passes
    return saved > cost, {
        "seconds_eager": trial.per_pass(eager),
        "seconds_compiled": trial.per_pass(compiled),
        "compile_seconds": round(cost, 3),
    }


def _compile_error(trial: Trial, settings: Settings, compile_model: Compile) -> str | None:
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


def _read(directory: Path) -> dict[str, Any]:
    path = directory / FILE
    return dict(read_json(path)) if path.is_file() else {}


def _write(directory: Path, **choice: Any) -> None:
    write_json(directory / FILE, _read(directory) | choice)
