"""What this machine computes with, without torch: a runtime must not load it."""

from __future__ import annotations

import os
import platform
from pathlib import Path

CPUS = Path("/sys/devices/system/cpu")
"""https://docs.kernel.org/admin-guide/abi-testing.html, cpu*/cache/index*"""
GROUPS, GROUPS_OF_PROCESS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
"""https://docs.kernel.org/admin-guide/cgroup-v2.html; of version 1 the memory controller is a directory of its own."""


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
    return _value_in(Path("/proc/cpuinfo"), key)


def _value_in(path: Path, key: str) -> str:
    """The first value of a key in a file of lines `key: value`, empty without one."""
    lines = _text(path).splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key), "")


def _text(path: Path) -> str:
    """What a file of the system says, empty where there is none."""
    try:
        return path.read_text()
    except OSError:
        return ""


def cache_bytes(root: Path = CPUS) -> int:
    """Last-level caches of the cores that this process may use, each once; 0 where the system does not tell (Linux)."""
    found: dict[str, int] = {}
    for core in os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ():
        last = max((root / f"cpu{core}" / "cache").glob("index*"), default=root)
        kib = _text(last / "size").strip().removesuffix("K")
        if kib.isdigit():
            found[_text(last / "shared_cpu_list")] = int(kib) * 1024
    return sum(found.values())


def total_memory_bytes() -> int:
    """Physical memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def available_memory_bytes() -> int:
    """What this process may still take: of the machine's memory what is available, at most its container's limit."""
    available = _value_in(Path("/proc/meminfo"), "MemAvailable").removesuffix(" kB")
    free = int(available) * 1024 if available.isdigit() else total_memory_bytes()
    return min([total_memory_bytes(), free, *memory_limits_bytes()])


def memory_limits_bytes(groups: Path = GROUPS, of_process: Path = GROUPS_OF_PROCESS) -> list[int]:
    """The limits of this process's control groups and of those around them, versions 1 and 2; none on other systems.

    In a container the group's path may be the host's, which is not there: its own limit is then at the root.
    """
    found = []
    for line in _text(of_process).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, name = (groups / "memory", "memory.limit_in_bytes") if controllers else (groups, "memory.max")
        own = root / path.lstrip("/")
        said = [_text(group / name).strip() for group in (own, *own.parents)]
        found += [int(limit) for limit in said if limit.isdigit()]  # else not there, or `max`
    return found
