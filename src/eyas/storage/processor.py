"""What this machine computes with, without torch: a runtime must not load it."""

from __future__ import annotations

import os
import platform
from pathlib import Path


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
