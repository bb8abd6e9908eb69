"""The user's file of examples to leave out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eyas.errors import DataError
from eyas.storage.hashing import sha256_of

_ID = re.compile(r"[0-9a-f]{16}")


def exclusion_hash(name: str) -> str:
    """SHA-256 of the file.

    Raises: DataError, if it cannot be read.
    """
    try:
        return sha256_of(Path(name).expanduser())
    except OSError as error:
        raise _unreadable(name, error) from error


def read_exclusion(name: str) -> NDArray[np.uint64]:
    """The ids as numbers, sorted, each once. Blank lines and rows without an id (malformed records) are passed over.

    So are rows whose `of` is their own `id`: a repetition that was dropped has the id of the one that stays.

    Raises: DataError, if the file cannot be read, a line is no id, or there is none in it.
    """
    found: set[int] = set()
    try:
        with Path(name).expanduser().open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                id_ = _id(line.strip(), where=f"{name}, line {number}")
                if id_:
                    found.add(int(id_, 16))
    except OSError as error:
        raise _unreadable(name, error) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: expected a text file of example ids, found other bytes ({error.reason}).") from error
    if not found:
        raise DataError(f"{name}: names no example. Write one id a line, or leave `exclude` out of the recipe.")
    return np.array(sorted(found), np.uint64)


def _unreadable(name: str, error: OSError) -> DataError:
    return DataError(
        f"{name}: the `exclude` file cannot be read ({error.strerror}). Give a file with an example id a "
        "line, or leave `exclude` out of the recipe."
    )


def _id(line: str, *, where: str) -> str:
    if not line.startswith("{"):
        id_: object = line
    else:
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(
                f"{where}: not JSON ({error}). Write an example id a line, or copy lines of dropped.jsonl."
            ) from error
        id_ = row.get("id")
        if id_ is not None and id_ == row.get("of"):
            return ""
    if not isinstance(id_, str) or (id_ and not _ID.fullmatch(id_)):
        raise DataError(
            f"{where}: expected an example id, 16 hex digits as in dropped.jsonl and the report, or a JSON object with "
            f"one in `id`; found {line[:60]!r}."
        )
    return id_
