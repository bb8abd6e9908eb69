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
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from filelock import FileLock
from torch import Tensor
from transformers import PreTrainedModel

from eyas import __version__
from eyas.storage.artifacts import read_json, write_json
from eyas.storage.attention import FLASH, packed_implementation
from eyas.storage.backbone import hidden_states
from eyas.storage.hardware import is_out_of_memory
from eyas.storage.processor import core_count, cpu_name

TOLERANCE = 1e-3
"""Largest difference of a hidden state, packed and alone, in units of the states' root mean square. In float32 rounding
gave 2e-5 over 30 layers, a leak between random sequences 0.05 and more (LOG.md)."""
NOISE_FACTOR = 2.0
"""In half precision the difference may be this many times what half precision changes in a sequence alone: two results
rounded apart differ by 1.4 times as much as one does from the exact one, and their largest differences vary."""
REFUSALS = (
    TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError, AssertionError,
)  # fmt: skip
"""How models refuse packed rows, or a cache that is not theirs; nobody promised that they take either, so there is no
common class. A refusal is an answer of the trial, no failure: padding and plain prefill do without."""
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

    Equal hidden states give equal logits: the head sees each token by itself. They are computed in the model's own
    type, float32 in training, which tells a leak from rounding best; where flash attention takes the packed rows, which
    knows no float32, then also in `precision`, and what that changes in the sequences alone is the measure there.
    """
    device = next(model.parameters()).device
    row_1T = torch.tensor([[token for ids in sequences for token in ids]], device=device)
    positions_1T = torch.tensor([[position for ids in sequences for position in range(len(ids))]], device=device)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            alone_1TD = _alone(model, sequences)
            difference = _difference(hidden_states(model, row_1T, positions_1T).float(), alone_1TD)
            tolerance = TOLERANCE
            narrow = getattr(torch, precision)
            if difference <= tolerance and packed_implementation(device, narrow) == FLASH:
                with torch.autocast(device.type, dtype=narrow):
                    rounded_1TD = _alone(model, sequences)
                    difference = _difference(hidden_states(model, row_1T, positions_1T).float(), rounded_1TD)
                tolerance = NOISE_FACTOR * _difference(rounded_1TD, alone_1TD)
    except REFUSALS as error:
        if is_out_of_memory(error):
            raise
        what = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        return PackingProbe(False, None, f"the model refuses packed rows ({what})")
    finally:
        model.train(training)
    equal = difference <= tolerance  # false for NaN too
    verdict = "equals" if equal else "differs from"
    return PackingProbe(
        equal,
        difference if math.isfinite(difference) else None,
        f"a packed row {verdict} its sequences alone: {difference:.1e}, tolerance {tolerance:.1e}",
    )


def _alone(model: PreTrainedModel, sequences: Sequence[Sequence[int]]) -> Tensor:
    """Last hidden states [1, T, D] of the sequences one by one, in float32, one after another."""
    device = next(model.parameters()).device
    states = [hidden_states(model, torch.tensor([ids], device=device)) for ids in sequences]
    return torch.cat(states, dim=1).float()


def _difference(found_1TD: Tensor, expected_1TD: Tensor) -> float:
    """Largest difference in units of the expected states' root mean square."""
    return float((found_1TD - expected_1TD).abs().max() / expected_1TD.square().mean().sqrt())


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
    workspace chooses the same; of two runs at once the second waits for what the first measures. Deleting it is
    harmless. A cache that cannot be written is done without.
    """
    machine = {
        "cpu": cpu_name(),
        "cores": core_count(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "eyas": __version__,
    }
    key = json.dumps({"machine": machine, "shape": shape}, sort_keys=True, default=str)
    path = _memory(hashlib.sha256(key.encode()).hexdigest()[:24])
    if path is None:
        return measure()
    with ExitStack() as held:
        with suppress(OSError, RuntimeError):
            path.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(path.with_suffix(".lock")))
        with suppress(OSError, RuntimeError, ValueError):
            found: dict[str, Any] = read_json(path)
            return found
        made = measure()
        with suppress(OSError):
            write_json(path, made)
    return made


def _memory(name: str) -> Path | None:
    """Where the machine remembers; None where it has no place, a user without a home."""
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    return root / "eyas" / "probes" / f"{name}.json"
