"""Parquet shards (zstd) of examples, sequences and predictions; those of teacher scores are in scores.py.

A shard's name carries the first 16 hex digits of its own SHA-256 (`00003.9f86d081884c7d65.parquet`), so one
rename publishes data and checksum together, and a truncated or altered shard is found without a second file.

Columns. Sequences: the fields of `SequenceRecord`; ids are int32 lists, log-probs float32 lists.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Generic, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from eyas.errors import CorruptArtifact
from eyas.records import Example, SequenceRecord
from eyas.storage.artifacts import atomic_path, fsync_tree
from eyas.storage.hashing import sha256_of

Record = TypeVar("Record", Example, SequenceRecord)

SHARD_RECORDS = 20_000
_IDS, _FLOATS = pa.list_(pa.int32()), pa.list_(pa.float32())
SCHEMAS: dict[type, pa.Schema] = {
    Example: pa.schema(
        [("key", pa.string()), ("prompt", pa.list_(pa.list_(pa.string()))), ("answer", pa.string()),
         ("reasoning", pa.string()), ("grader", pa.string()), ("level", pa.string()), ("origin", pa.string()),
         ("metadata", pa.string())]
    ),
    SequenceRecord: pa.schema(
        [("example_id", pa.string()), ("sample", pa.int32()), ("mode", pa.string()), ("source", pa.string()),
         ("prompt_ids", _IDS), ("completion_ids", _IDS), ("finish_reason", pa.string()), ("sampling_logprobs", _FLOATS),
         ("text", pa.string()), ("answer", pa.string()), ("grade", pa.float32())]
    ),
}  # fmt: skip


def write_shard(directory: Path, index: int, records: Sequence[Record], *, kind: type[Record]) -> Path:
    """Write one shard atomically; an older or damaged one of the same index goes."""
    schema = SCHEMAS[kind]
    columns = {name: [getattr(record, name) for record in records] for name in schema.names}
    return write_table(directory, index, pa.Table.from_pydict(columns, schema=schema))


class ShardWriter(Generic[Record]):
    """Records one after another into shards of SHARD_RECORDS; memory holds one shard."""

    def __init__(self, directory: Path, *, kind: type[Record]) -> None:
        self._directory: Path = directory
        self._kind: type[Record] = kind
        self._waiting: list[Record] = []
        self._shards = 0
        self.count = 0
        """Records so far."""

    def add(self, record: Record) -> None:
        """Take one more."""
        self._waiting.append(record)
        self.count += 1
        if len(self._waiting) == SHARD_RECORDS:
            self._write()

    def finish(self) -> int:
        """Write what waits; how many records there are in all."""
        if self._waiting:
            self._write()
        return self.count

    def _write(self) -> None:
        write_shard(self._directory, self._shards, self._waiting, kind=self._kind)
        self._shards += 1
        self._waiting = []


def write_table(
    directory: Path,
    index: int,
    table: pa.Table,
    *,
    level: int | None = None,
    encodings: Mapping[str, str] | None = None,
) -> Path:
    """As `write_shard`, for a table of any schema; `level` is zstd's, `encodings` are Parquet's by column path."""
    directory.mkdir(parents=True, exist_ok=True)
    old = list(directory.glob(f"{index:05d}.*.parquet"))
    draft = directory / f"{index:05d}.draft"
    with atomic_path(draft) as temporary:
        pq.write_table(
            table,
            temporary,
            compression="zstd",
            compression_level=level,
            use_dictionary=encodings is None,
            column_encoding=None if encodings is None else dict(encodings),
        )
    path = directory / f"{index:05d}.{sha256_of(draft)[:16]}.parquet"
    draft.rename(path)
    fsync_tree(directory, deep=False)
    for stale in old:
        if stale != path:
            stale.unlink()
    return path


def shard_path(directory: Path, index: int) -> Path | None:
    """The shard of this index if it exists and is whole; a damaged one is deleted and counts as absent."""
    for path in directory.glob(f"{index:05d}.*.parquet"):
        if _is_whole(path):
            return path
        path.unlink()
    return None


def _is_whole(path: Path) -> bool:
    return sha256_of(path)[:16] == path.name.split(".")[1]


def shard_paths(directory: Path) -> list[Path]:
    """All shards in order.

    Raises: CorruptArtifact, if one does not match its checksum.
    """
    paths = sorted(directory.glob("[0-9]*.parquet"))
    for path in paths:
        if not _is_whole(path):
            raise CorruptArtifact(f"{path}: checksum does not match. Run the recipe again: only this shard is redone.")
    return paths


def read_records(directory: Path, *, kind: type[Record]) -> Iterator[Record]:
    """Every record of every shard, in order.

    Raises: CorruptArtifact, as `shard_paths`.
    """
    for path in shard_paths(directory):
        for row in pq.read_table(path).to_pylist():
            yield _record(row, kind)


def _record(row: dict[str, Any], kind: type[Record]) -> Record:
    if kind is Example:
        row["prompt"] = tuple((role, text) for role, text in row["prompt"])
    return kind(**{item.name: row[item.name] for item in fields(kind)})
