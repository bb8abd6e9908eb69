"""What a measurement was made on."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers

from eyas import __version__
from eyas.errors import OutOfMemory
from eyas.recipe import ExecutionSpec
from eyas.storage.processor import core_count, cpu_name, total_memory_bytes

CPU_OUT_OF_MEMORY = "can't allocate memory"
"""c10/core/impl/alloc_cpu.cpp"""


def describe_hardware(execution: ExecutionSpec) -> dict[str, Any]:
    """CPU, cores, memory, device and versions, for a manifest."""
    device = execution.device
    if device == "auto":
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "cpu": cpu_name(),
        "cores": core_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(total_memory_bytes() / 2**30, 1),
        "platform": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "eyas": __version__,
        "device": device,
    }


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; torch's CPU allocator says so in a plain RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and CPU_OUT_OF_MEMORY in str(error)


@contextmanager
def training_memory(execution: ExecutionSpec) -> Iterator[None]:
    """Memory that runs out within, in training or in what is tried before it, is an error that names the setting.

    Raises: OutOfMemory; one that was raised within is left as it is.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, OutOfMemory) or not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            f"out of memory in training (micro-batches of {execution.micro_batch_size}): lower "
            "execution.micro_batch_size and run the same command again; the result does not depend on it."
        ) from error
