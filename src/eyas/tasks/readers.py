"""Rows of local data files, streamed: JSON Lines, a JSON array, CSV, TSV, Parquet, and a directory of shards.

The file's name decides its kind; `.gz` after a text kind is decompressed on the way. A record that cannot be read is
given as the DataError that says so, so that the caller decides whether it ends the reading; what makes the rest of a
file unreadable (a broken archive, a cut Parquet footer) is raised.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from eyas.errors import DataError
from eyas.tasks.json_array import array_elements

Row = tuple[str, object]
"""Where a record stands, and the record or the DataError that says why it could not be read."""
KINDS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
"""Suffix to kind; a file with any other name is read as JSON Lines."""
LONGEST_RECORD = 64 * 2**20
"""Bytes of a line, a CSV field or an array's element beyond which it is not one record: what memory must hold."""
BATCH_ROWS, BUFFER_BYTES = 256, 2**20
"""Of a Parquet file, held at a time: memory does not grow with its row groups."""


def rows_of(path: Path) -> Iterator[Row]:
    """All rows of a file, or of a directory's shards in the order of their names.

    Raises: DataError, naming the file, if it cannot be read on or holds no records.
    """
    found = False
    for shard in shards_of(path):
        try:
            for row in _rows(shard):
                found = True
                yield row
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{shard}: cannot be read ({_first_line(error)}).") from error
    if not found:
        raise DataError(f"{path}: holds no records. Expected one JSON object a line, or the rows of a table.")


def shards_of(path: Path) -> list[Path]:
    """The file itself, or the data files right inside a directory, sorted by name. Other files there are ignored.

    Raises: DataError, if a directory holds no data files or several kinds of them.
    """
    if not path.is_dir():
        return [path]
    found = sorted(item for item in path.iterdir() if item.is_file() and _suffix(item) in KINDS)
    shards = [item for item in found if not item.name.startswith(".")]
    kinds = sorted({kind_of(item) for item in shards})
    if not shards:
        raise DataError(f"{path}: holds no data files. Expected shards named *{', *'.join(KINDS)} right inside it.")
    if len(kinds) > 1:
        raise DataError(f"{path}: holds {' and '.join(kinds)} files. Keep shards of one kind, or name one file.")
    return shards


def count_rows(path: Path) -> int:
    """How many rows a file or directory has, malformed ones included; of JSON Lines and Parquet without parsing them.

    Raises: DataError, if it cannot be read.
    """
    return sum(_count(shard) for shard in shards_of(path))


def kind_of(path: Path) -> str:
    """`jsonl`, `json`, `csv`, `tsv` or `parquet`, by the file's name."""
    return KINDS.get(_suffix(path), "jsonl")


def _suffix(path: Path) -> str:
    name = path.name.lower()
    return Path(name.removesuffix(".gz")).suffix


def _rows(path: Path) -> Iterator[Row]:
    kind = kind_of(path)
    if kind == "parquet":
        yield from _parquet(path)
        return
    with _opened(path) as file:
        if kind == "json" and _begins_with(file, b"["):
            for number, element in enumerate(array_elements(file, name=str(path), longest=LONGEST_RECORD), start=1):
                yield f"{path}, record {number}", element
        elif kind in {"csv", "tsv"}:
            yield from _table(file, path, delimiter="," if kind == "csv" else "\t")
        else:
            for number, line in _lines(file, path):
                if line.strip():
                    where = f"{path}, line {number}"
                    yield where, _parsed(line, where=where)


def _opened(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def _begins_with(file: IO[bytes], mark: bytes) -> bool:
    """Whether the file's first character that is no space is `mark`; the file is at its start afterwards."""
    begins = file.read(4096).removeprefix(codecs.BOM_UTF8).lstrip().startswith(mark)
    file.seek(0)
    return begins


def _lines(file: IO[bytes], path: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    while line := file.readline(LONGEST_RECORD + 1):
        number += 1
        if len(line) > LONGEST_RECORD:
            raise DataError(f"{path}, line {number}: longer than {LONGEST_RECORD // 2**20} MiB. One record a line.")
        yield number, line.removeprefix(codecs.BOM_UTF8) if number == 1 else line


def _parsed(line: bytes, *, where: str) -> object:
    try:
        parsed: object = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return DataError(f"{where}: not UTF-8 ({error.reason} at byte {error.start}).")
    except (ValueError, RecursionError) as error:
        return DataError(f"{where}: not JSON ({error}). Each line must be one whole JSON object.")
    return parsed


def _table(file: IO[bytes], path: Path, *, delimiter: str) -> Iterator[Row]:
    """Rows as column -> text, None for an empty cell. The first row names the columns."""
    csv.field_size_limit(LONGEST_RECORD)
    text = (line.decode(errors="surrogateescape") for _, line in _lines(file, path))
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    columns: list[str] | None = None
    while True:
        where = f"{path}, line {reader.line_num + 1}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if columns is None:
                raise DataError(f"{where}: the header is not readable ({error}).") from error
            yield where, DataError(f"{where}: not a row of the table ({error}). Quote cells that hold quotes.")
            continue
        if columns is None:
            columns = _header(cells, where=where)
        elif cells:
            yield where, _cells(cells, columns, where=where)


def _header(cells: list[str], *, where: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{where}: the header names {repeated[0]!r} more than once. Give each column its own name.")
    return names


def _cells(cells: list[str], columns: list[str], *, where: str) -> object:
    if len(cells) != len(columns):
        return DataError(f"{where}: {len(cells)} cells, but the header names {len(columns)} columns.")
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return DataError(f"{where}: not UTF-8.")
    return {name: cell or None for name, cell in zip(columns, cells, strict=True)}


def _parquet(path: Path) -> Iterator[Row]:
    number = 0
    try:
        with pq.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS, use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise DataError(f"{path}, after row {number}: not readable as Parquet ({_first_line(error)}).") from error


def _count(path: Path) -> int:
    kind = kind_of(path)
    try:
        if kind == "parquet":
            with pq.ParquetFile(path) as table:
                return int(table.metadata.num_rows)
        if kind == "jsonl":
            with _opened(path) as file:
                return sum(1 for _, line in _lines(file, path) if line.strip())
    except (OSError, EOFError, zlib.error, pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({_first_line(error)}).") from error
    return sum(1 for _ in rows_of(path))


def _first_line(error: Exception) -> str:
    """What happened, without the path that the message names already."""
    told = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(told).splitlines()[0]
