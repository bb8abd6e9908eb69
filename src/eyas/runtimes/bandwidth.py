"""How fast this machine reads its memory: the limit of decoding at batch size 1."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from eyas.storage.processor import core_count, total_memory_bytes

ARRAY_BYTES = 2**28
"""Per core; together beyond the caches of a machine, of which the largest have hundreds of MB on dozens of cores."""
MEMORY_SHARE = 0.125
"""Of the machine's memory, at most: a small device has cores but no 256 MiB for each, and small caches."""
TRIES = 5


def read_bandwidth() -> float:
    """Bytes a second: the best of five sums of 256 MiB of int64 a core, by one core or by all at once; of less where
    that would be more than an eighth of the memory.

    Not a copy, which writes as well: decoding reads. numpy's sum keeps up with the memory of the machines it was tried
    on; where it did not, the figure would be too low and shares of the limit too high.
    """
    cores = core_count()
    arrays = [np.ones(array_bytes(cores, memory=total_memory_bytes()) // 8, np.int64) for _ in range(cores)]
    with ThreadPoolExecutor(cores) as pool:
        return max(_read(pool, arrays[:count]) for count in {1, cores} for _ in range(TRIES))


def array_bytes(cores: int, *, memory: int) -> int:
    """What each core sums on a machine of so many bytes of memory."""
    return min(ARRAY_BYTES, int(MEMORY_SHARE * memory) // cores)


def _read(pool: ThreadPoolExecutor, arrays: Sequence[NDArray[np.int64]]) -> float:
    started = time.perf_counter()
    list(pool.map(np.sum, arrays))
    return sum(array.nbytes for array in arrays) / (time.perf_counter() - started)
