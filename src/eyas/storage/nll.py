"""Parquet shards of how likely a model finds completions with and without their prompt, for the delta-IFD window.

Columns: `token_hash` as in sequences and scores, `conditional_nll` and `unconditional_nll`, mean nats of the
completion's tokens 2..n, float64, null where there is only one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from eyas.selection import Nll
from eyas.storage.shards import shard_paths, write_table

DIRECTORY = "nll"
"""Where a score stage (the teacher's) and a distill stage (the student's) keep them."""
SCHEMA = pa.schema(
    [("token_hash", pa.string()), ("conditional_nll", pa.float64()), ("unconditional_nll", pa.float64())]
)


def write_nll(directory: Path, index: int, found: Mapping[str, Nll]) -> Path:
    """Write one shard atomically, keyed by token hash."""
    rows = [
        {"token_hash": key, "conditional_nll": nll.conditional, "unconditional_nll": nll.unconditional}
        for key, nll in found.items()
    ]
    return write_table(directory, index, pa.Table.from_pylist(rows, schema=SCHEMA))


def read_nll(directory: Path) -> dict[str, Nll]:
    """All shards by token hash; empty if there is none.

    Raises: CorruptArtifact, if one does not match its checksum.
    """
    return {
        row["token_hash"]: Nll(conditional=row["conditional_nll"], unconditional=row["unconditional_nll"])
        for path in shard_paths(directory)
        for row in pq.read_table(path).to_pylist()
    }
