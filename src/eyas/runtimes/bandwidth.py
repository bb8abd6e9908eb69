"""How fast this machine reads its memory: the limit of decoding at batch size 1."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from eyas.storage.processor import available_memory_bytes, cache_bytes, core_count

ARRAY_BYTES, TOTAL_BYTES = 2**28, 2**30
"""Per core, and for all cores together."""
CACHES = 4
"""What is read is at least so many times the last-level caches: the largest machines have more than 1 GiB of them.
Source: STREAM's rule for its arrays, https://www.cs.virginia.edu/stream/ref.html"""
MEMORY_SHARE = 0.125
"""Of the memory that there is for this process, at most: a small device or container has cores but no 256 MiB for
each, and small caches or a small part of large ones."""
TRIES = 5


def read_bandwidth() -> float:
    """Bytes a second: the best of five sums of 256 MiB of int64 a core, by one core or by all at once; of less where
    that would be more than 1 GiB (or four times the caches), or than an eighth of the memory for this process.

    Not a copy, which writes as well: decoding reads. numpy's sum keeps up with the memory of the machines it was tried
    on; where it did not, the figure would be too low and shares of the limit too high.
    """
    cores = core_count()
    numbers = array_bytes(cores, memory=available_memory_bytes(), cache=cache_bytes()) // 8
    arrays = [np.ones(numbers, np.int64) for _ in range(cores)]
    return max(_read(arrays, workers=count) for count in {1, cores} for _ in range(TRIES))


def array_bytes(cores: int, *, memory: int, cache: int) -> int:
    """Of each core's array, with so many bytes of memory and of last-level cache for all cores together."""
    wanted = max(min(cores * ARRAY_BYTES, TOTAL_BYTES), CACHES * cache)
    return min(wanted, int(MEMORY_SHARE * memory)) // cores


def _read(arrays: Sequence[NDArray[np.int64]], *, workers: int) -> float:
    """All arrays, whoever reads: one alone would lie in the cache that a core of many has."""
    with ThreadPoolExecutor(workers) as pool:
        started = time.perf_counter()
        list(pool.map(np.sum, arrays))
        return sum(array.nbytes for array in arrays) / (time.perf_counter() - started)
