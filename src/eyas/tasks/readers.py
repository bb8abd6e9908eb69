"""Rows of local data files, streamed: JSON Lines, a JSON array, CSV, TSV, Parquet, and a directory of shards.

The file's name decides its kind (an array is known by its first bracket, a table's delimiter by its header); `.gz`
after a text kind is decompressed on the way. A record that cannot be read is given as the DataError that says so, so
that the caller decides whether it ends the reading; what makes the rest of a file unreadable (a broken archive, a cut
Parquet footer) is raised.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import re
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from eyas.errors import DataError
from eyas.tasks.json_array import DECODER, array_elements, json_problem
from eyas.tasks.shards import HEAD_BYTES, head_of, kind_of, refuse_foreign, shards_of

Row = tuple[str, object]
"""Where a record stands, and the record or the DataError that says why it could not be read."""
LONGEST_RECORD = 64 * 2**20
"""Bytes of a line, a CSV field or an array's element beyond which it is not one record: what memory must hold."""
BATCH_ROWS, BUFFER_BYTES = 256, 2**20
"""Of a Parquet file, held at a time: memory does not grow with its row groups."""


_ARRAY, _ARRAY_OF_OBJECTS = re.compile(rb"\s*\["), re.compile(rb"\s*\[\s*\{")
_ONE_OBJECT = re.compile(rb"(?:\xef\xbb\xbf)?\s*\{[ \t]*\r?\n")


def rows_of(path: Path | str) -> Iterator[Row]:
    """All rows of a file, or of shards in the order of their names.

    Raises: DataError, naming the file, if it cannot be read on or holds no records.
    """
    found = False
    for shard in shards_of(path):
        try:
            for row in _rows(shard):
                found = True
                yield row
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(_unreadable(shard, error)) from error
    if not found:
        raise DataError(f"{path}: holds no records. Expected one JSON object a line, or the rows of a table.")


def count_rows(path: Path | str) -> int:
    """How many rows a file or directory has, malformed ones included; of JSON Lines and Parquet without parsing them.

    Raises: DataError, if it cannot be read.
    """
    return sum(_count(shard) for shard in shards_of(path))


def _rows(path: Path) -> Iterator[Row]:
    kind = kind_of(path)
    if kind == "parquet":
        yield from _parquet(path)
        return
    with _opened(path) as file:
        head = head_of(file, path)
        if kind in {"csv", "tsv"}:
            yield from _table(file, path, delimiter="," if kind == "csv" else "\t")
        elif _is_array(head, kind):
            for number, element in enumerate(array_elements(file, name=str(path), longest=LONGEST_RECORD), start=1):
                yield f"{path}, record {number}", element
        else:
            if kind == "json" and _ONE_OBJECT.match(head):
                raise DataError(f"{path}: one JSON object over several lines. Expected an array of objects, or lines.")
            for number, line in _lines(file, path):
                if line.strip():
                    where = f"{path}, line {number}"
                    yield where, _parsed(line, where=where)


def _opened(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def _is_array(head: bytes, kind: str) -> bool:
    """In a `.json` a bracket tells; a line of JSON Lines may be a misplaced list, so there an object must follow."""
    begins = head.removeprefix(codecs.BOM_UTF8)
    return (_ARRAY if kind == "json" else _ARRAY_OF_OBJECTS).match(begins) is not None


def _lines(file: IO[bytes], path: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    while line := file.readline(LONGEST_RECORD + 1):
        number += 1
        if len(line) > LONGEST_RECORD:
            raise DataError(f"{path}, line {number}: longer than {LONGEST_RECORD // 2**20} MiB. One record a line.")
        yield number, line.removeprefix(codecs.BOM_UTF8) if number == 1 else line


def _parsed(line: bytes, *, where: str) -> object:
    try:
        parsed: object = DECODER.decode(line.decode())
    except UnicodeDecodeError as error:
        return DataError(f"{where}: not UTF-8 ({error.reason} at byte {error.start}).")
    except (ValueError, RecursionError) as error:
        return DataError(f"{where}: not JSON ({json_problem(error)}). Each line must be one whole JSON object.")
    return parsed


def _table(file: IO[bytes], path: Path, *, delimiter: str) -> Iterator[Row]:
    """Rows as column -> text, None for an empty cell. The first row names the columns; one without a name is left out.

    A header without the `delimiter` is read by the one that it has: spreadsheets write semicolons in many countries.
    """
    csv.field_size_limit(LONGEST_RECORD)
    text = (line.decode(errors="surrogateescape") for _, line in _lines(file, path))
    header = next(text, "")
    delimiter = next((found for found in (delimiter, ",", ";", "\t") if found in header), delimiter)
    reader = csv.reader(chain([header], text), delimiter=delimiter, strict=True)
    columns: list[str] | None = None
    while True:
        where = f"{path}, line {reader.line_num + 1}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if columns is None:
                raise DataError(
                    f"{where}: the header is not readable ({error}). Quote names that hold quotes."
                ) from error
            yield where, DataError(f"{where}: not a row of the table ({error}). Quote cells that hold quotes.")
            continue
        if columns is None:
            columns = _header(cells, where=where)
        elif cells:
            yield where, _cells(cells, columns, where=where)


def _header(cells: list[str], *, where: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    if repeated := sorted({name for name in names if name and names.count(name) > 1}):
        raise DataError(f"{where}: the header names {repeated[0]!r} more than once. Give each column its own name.")
    return names


def _cells(cells: list[str], columns: list[str], *, where: str) -> object:
    if len(cells) != len(columns):
        return DataError(f"{where}: {len(cells)} cells, but the header names {len(columns)} columns.")
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return DataError(f"{where}: not UTF-8.")
    return {name: cell or None for name, cell in zip(columns, cells, strict=True) if name}


def _parquet(path: Path) -> Iterator[Row]:
    number = 0
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head.startswith(b"PAR1"):
        refuse_foreign(head, path)
    try:
        with pq.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False) as table:
            names = table.schema_arrow.names
            if repeated := sorted({name for name in names if names.count(name) > 1}):
                raise DataError(f"{path}: two columns are called {repeated[0]!r}. Give each its own name.")
            for batch in table.iter_batches(batch_size=BATCH_ROWS, use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except DataError:
        raise
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
                if _is_array(head_of(file, path), kind):
                    return sum(1 for _ in _rows(path))
                return sum(1 for _, line in _lines(file, path) if line.strip())
    except (OSError, EOFError, zlib.error, pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(_unreadable(path, error)) from error
    return sum(1 for _ in rows_of(path))


def _unreadable(path: Path, error: Exception) -> str:
    missing = isinstance(error, FileNotFoundError)
    advice = " Give a file or directory of this machine; data sets of the hub are `type: hub`." if missing else ""
    return f"{path}: cannot be read ({_first_line(error)}).{advice}"


def _first_line(error: Exception) -> str:
    """What happened, without the path that the message names already."""
    told = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(told).splitlines()[0]
