"""What a measurement was made on."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers

from eyas import __version__
from eyas.errors import OutOfMemory
from eyas.recipe import ExecutionSpec

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


def core_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """The processor's name, or its architecture where the system tells no more."""
    return _cpu_info("model name") or platform.processor() or platform.machine()


def has_fast_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 matrices in hardware: AMX or AVX512-BF16 on x86, the bf16 extension on ARM.

    Elsewhere bfloat16 is converted back and forth, which is slower than float32. Linux only; false where unknown.
    """
    flags = set((_cpu_info("flags") or _cpu_info("Features")).split())
    return bool(flags & {"amx_bf16", "avx512_bf16", "bf16"})


def _cpu_info(key: str) -> str:
    """The first value of a key in /proc/cpuinfo, empty without one."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key), "")


def total_memory_bytes() -> int:
    """Physical memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
