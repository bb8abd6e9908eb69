"""What a model and a machine can do, found out by trying: packed rows, CPU threads; and what was found, remembered.

A measured time is never the same twice, so no choice here is made twice: a stage writes its choices down before its
first step (storage/settings.py), and the machine remembers them for work of the same shape.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from eyas import __version__
from eyas.storage.artifacts import read_json, write_json
from eyas.storage.backbone import hidden_states
from eyas.storage.hardware import core_count, cpu_name

TOLERANCES = {"float32": 1e-3, "bfloat16": 0.25, "float16": 0.25}
"""Largest difference of a hidden state, packed and alone, in units of the states' root mean square. In float32 rounding
gave 2e-5 over 30 layers, a leak between random sequences 0.05 and more (LOG.md). Half precision rounds by 1/256 an
operation."""
SLACK = 1.03
"""The fewest threads within 3 % of the fastest are taken: the others then serve somebody else."""


@dataclass(frozen=True)
class PackingProbe:
    """Whether packed rows compute what rows of one sequence do."""

    equal: bool
    difference: float | None
    """Largest difference in units of the states' root mean square; None where the model refused packed rows."""
    reason: str
    """One sentence for log and manifest."""


def probe_packing(
    model: PreTrainedModel, sequences: Sequence[Sequence[int]], *, precision: str = "float32"
) -> PackingProbe:
    """Compare the last hidden states of the given token ids in one packed row with those of each alone.

    Equal hidden states give equal logits: the head sees each token by itself. `precision` says what autocast computes
    in; the CPU is always asked in float32, which tells a leak from rounding best.
    """
    device = next(model.parameters()).device
    row_1T = torch.tensor([[token for ids in sequences for token in ids]], device=device)
    positions_1T = torch.tensor([[position for ids in sequences for position in range(len(ids))]], device=device)
    half = precision != "float32" and device.type != "cpu"
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(device.type, dtype=getattr(torch, precision), enabled=half):
            alone = [hidden_states(model, torch.tensor([ids], device=device)) for ids in sequences]
            packed_1TD = hidden_states(model, row_1T, positions_1T).float()
    except (TypeError, ValueError, RuntimeError) as error:
        return PackingProbe(False, None, f"the model refuses packed rows ({str(error).splitlines()[0][:200]})")
    finally:
        model.train(training)
    alone_1TD: Tensor = torch.cat(alone, dim=1).float()
    difference = float((packed_1TD - alone_1TD).abs().max() / alone_1TD.square().mean().sqrt())
    tolerance = TOLERANCES[precision if half else "float32"]
    equal = difference <= tolerance  # false for NaN too
    verdict = "equals" if equal else "differs from"
    return PackingProbe(
        equal,
        difference if math.isfinite(difference) else None,
        f"a packed row {verdict} its sequences alone: {difference:.1e}, tolerance {tolerance}",
    )


def thread_counts() -> list[int]:
    """The thread counts worth trying here: one, half the cores, all of them."""
    cores = core_count()
    return sorted({1, max(1, cores // 2), cores})


def seconds_by_threads(
    work: Callable[[], object], *, counts: Sequence[int] | None = None, repeats: int = 2
) -> dict[int, float]:
    """Thread count -> least seconds of `repeats` calls of `work`, after one that is not counted.

    Works on whatever calls torch on the CPU: a training pass, a few decoding steps. The thread count is as before
    afterwards. Not for accelerators, whose work is not done when the call returns.
    """
    found = {}
    for count in counts or thread_counts():
        with using_threads(count):
            work()
            found[count] = best_seconds(work, repeats=repeats)
    return found


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Compute with `count` CPU threads, and with as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def best_seconds(work: Callable[[], object], *, repeats: int = 2) -> float:
    """Least seconds of `repeats` calls."""
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return min(found)


def fewest_fast_threads(seconds: Mapping[int, float]) -> int:
    """The fewest threads within SLACK of the fastest."""
    return min(count for count, value in seconds.items() if value <= SLACK * min(seconds.values()))


def remembered(shape: Mapping[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was measured for work of this shape on this machine with these versions, measured now if never before.

    Kept in `$XDG_CACHE_HOME/eyas/probes` (by default `~/.cache/eyas/probes`), so that a run repeated in another
    workspace chooses the same. Deleting it is harmless. A cache that cannot be written is done without.
    """
    machine = {
        "cpu": cpu_name(),
        "cores": core_count(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "eyas": __version__,
    }
    key = json.dumps({"machine": machine, "shape": shape}, sort_keys=True, default=str)
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = root / "eyas" / "probes" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    with suppress(OSError, RuntimeError, ValueError):
        found: dict[str, Any] = read_json(path)
        return found
    made = measure()
    with suppress(OSError):
        write_json(path, made)
    return made
