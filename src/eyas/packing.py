"""How the sequences of one optimiser step are laid out in rows. Pure: lengths in, indices out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

Row = tuple[int, ...]
"""Indices of the sequences that share a row, in order."""


def padded_rows(lengths: Sequence[int], *, micro_batch_size: int, count: int | None = None) -> list[list[Row]]:
    """One sequence a row; sequences sorted by length, longest first, cut into micro-batches of nearly equal size.

    `count` fixes the number of micro-batches, for ranks that must do the same number of passes.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    return _cut([(index,) for index in order], micro_batch_size=micro_batch_size, count=count)


def packed_rows(
    lengths: Sequence[int], *, row_length: int, micro_batch_size: int, count: int | None = None
) -> list[list[Row]]:
    """First-fit decreasing packing into rows of at most `row_length` tokens, cut into micro-batches of rows.

    Source: D. S. Johnson, "Near-optimal bin packing algorithms", 1973 (at most 11/9 of the least number of rows).
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    rows: list[list[int]] = []
    room: list[int] = []
    for index in order:
        slot = next((row for row, free in enumerate(room) if free >= lengths[index]), None)
        if slot is None:
            rows.append([])
            room.append(row_length)
            slot = len(rows) - 1
        rows[slot].append(index)
        room[slot] -= lengths[index]
    return _cut([tuple(row) for row in rows], micro_batch_size=micro_batch_size, count=count)


def _cut(rows: list[Row], *, micro_batch_size: int, count: int | None) -> list[list[Row]]:
    parts = count or max(1, -(-len(rows) // micro_batch_size))
    size, extra = divmod(len(rows), parts)
    cuts = [part * size + min(part, extra) for part in range(parts + 1)]
    return [rows[start:end] for start, end in pairwise(cuts) if end > start]
