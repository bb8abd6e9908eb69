"""How the sequences of one optimiser step are laid out in rows. Pure: lengths in, indices out.

Both layouts give every rank the same number of micro-batches, since sharded weights are gathered once per pass by all
ranks together; where the sequences do not suffice, the last micro-batches are empty and their passes compute zero.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from itertools import pairwise

Row = tuple[int, ...]
"""Indices of the sequences that share a row, in order."""
CALL_SECONDS = 150e-6
"""Forward and backward of one short call of attention: fixed costs alone. This and the next two, which say what a token
costs in a layer, are a fit to two models on two cores of a Xeon (LOG.md); only their ratios matter."""
TOKEN_SECONDS = 3.5e-6
PARAMETER_SECONDS = 28e-12


def padded_rows(lengths: Sequence[int], *, micro_batch_size: int, ranks: int = 1) -> list[list[Row]]:
    """One sequence a row; sequences sorted by length, longest first, cut into micro-batches of nearly equal size.

    Rank r of `ranks` takes every `ranks`-th micro-batch from the r-th on: the ranks' rows are of like length.
    """
    order = _longest_first(lengths)
    parts = _parts(len(lengths), micro_batch_size=micro_batch_size, ranks=ranks)
    size, extra = divmod(len(order), max(1, parts))
    cuts = [part * size + min(part, extra) for part in range(parts + 1)]
    return [[(index,) for index in order[start:end]] for start, end in pairwise(cuts)]


def packed_rows(lengths: Sequence[int], *, micro_batch_size: int, ranks: int = 1) -> list[list[Row]]:
    """One row a micro-batch, holding at most `micro_batch_size` sequences, the rows of nearly equal token count.

    The longest sequence left goes to the row with the fewest tokens that has room, and the rows are ordered longest
    sequence first, so that neighbours of equal length share one call of the attention.

    Source: R. L. Graham, "Bounds on multiprocessing timing anomalies", 1969 (longest processing time first).
    """
    parts = _parts(len(lengths), micro_batch_size=micro_batch_size, ranks=ranks)
    rows: list[list[int]] = [[] for _ in range(parts)]
    room = [(0, part) for part in range(parts)]
    for index in _longest_first(lengths):
        tokens, part = heapq.heappop(room)
        rows[part].append(index)
        if len(rows[part]) < micro_batch_size:
            heapq.heappush(room, (tokens + lengths[index], part))
    return [[tuple(row)] if row else [] for row in rows]


def _longest_first(lengths: Sequence[int]) -> list[int]:
    return sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))


def _parts(sequences: int, *, micro_batch_size: int, ranks: int) -> int:
    """Micro-batches of all ranks: the least multiple of `ranks` into which they fit."""
    return ranks * -(-sequences // (micro_batch_size * ranks))


def packing_gain(lengths: Sequence[int], *, micro_batch_size: int, layer_parameters: float) -> float:
    """What packed rows save of a step on a CPU, in tokens of one layer's work; negative where padding is cheaper.

    Saved is the padding; paid is a call of the attention for each sequence of another length than its neighbour, which
    is next to nothing in a large layer and half a sequence in a tiny one. An estimate from dimensions alone, so that it
    is the same every time; not a measurement.
    """
    call_tokens = CALL_SECONDS / (TOKEN_SECONDS + PARAMETER_SECONDS * layer_parameters)
    padding = calls = 0
    for rows in padded_rows(lengths, micro_batch_size=micro_batch_size):
        widths = [lengths[index] for (index,) in rows]
        padding += len(widths) * max(widths) - sum(widths)
    for rows in packed_rows(lengths, micro_batch_size=micro_batch_size):
        calls += sum(len({lengths[index] for index in row}) for row in rows) - 1
    return padding - call_tokens * calls
