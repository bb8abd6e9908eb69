"""How this process computes on a CPU: with how many threads, and with memory that it keeps."""

from __future__ import annotations

import ctypes
import sys

import torch

from eyas.recipe import ExecutionSpec
from eyas.storage.processor import core_count

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""mallopt's names for them, glibc's malloc.h."""
KEPT_BYTES, MAPPED_BYTES = 2**30, 2**25
"""Freed memory that is kept, and the size from which a block is mapped on its own (the largest that glibc allows)."""


def prepare_process(execution: ExecutionSpec) -> None:
    """Use the recipe's number of CPU threads, or the cores this process may use; a training stage asked for `auto`
    measures its own. Keep freed memory, up to 1 GiB. Both are of the whole process, also for a caller's own work."""
    torch.set_num_threads(execution.threads if isinstance(execution.threads, int) else core_count())
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Let glibc's malloc keep up to 1 GiB of freed memory for the next tensor of some megabytes.

    By default much of it goes back to the system and is fetched again, zeroed page by page, in every step: decoding
    SmolLM2 in 64 slots took 123 to 154 ms a step without, 118 to 133 with it. Other C libraries are left alone.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)
            mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
