"""Which local files a source's path names, and whether each can be what its name says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import IO

from eyas.errors import DataError

KINDS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
"""Suffix to kind; a file with any other name is read as JSON Lines."""
HEAD_BYTES = 4096
"""Of a file, looked at to tell what it is."""
_SPLIT = re.compile(r"(?<![a-z])(train|test|validation|valid|val|dev|eval)(?![a-z])")
_FOREIGN = (
    (b"\x1f\x8b", "gzip", "Name it *.gz"),
    (b"PAR1", "Parquet", "Name it *.parquet"),
    (b"PK\x03\x04", "a ZIP archive or an Excel file", "Unpack it, or save the sheet as CSV"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "Decompress it, or use gzip"),
    (b"BZh", "compressed with bzip2", "Decompress it, or use gzip"),
    (b"\xfd7zXZ", "compressed with xz", "Decompress it, or use gzip"),
    (b"ARROW1", "an Arrow file", "Write it as Parquet"),
    (b"\xff\xfe", "UTF-16", "Save it as UTF-8"),
    (b"\xfe\xff", "UTF-16", "Save it as UTF-8"),
    (b"version https://git-lfs", "a pointer of Git LFS", "Get the data itself with `git lfs pull`"),
    (b"<!doctype html", "a web page", "Download the file itself"),
    (b"<html", "a web page", "Download the file itself"),
)
"""How files begin that are often given in place of data, what they are, and what to do."""


def shards_of(path: Path | str) -> list[Path]:
    """The file itself, the files that a pattern matches, or the data files right inside a directory; sorted by name.

    Other files in a directory are ignored; `~` is the home directory.

    Raises: DataError, if there are none, if they are of several kinds or splits, or one is no regular file.
    """
    if not str(path) or "\0" in str(path):
        raise DataError(f"the path of the data is {str(path)!r}. Give a file or a directory.")
    try:
        path = Path(path).expanduser()
        directory, exists = path.is_dir(), path.exists()
        special = exists and not directory and not path.is_file()
    except (OSError, RuntimeError) as error:
        told = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise DataError(f"{str(path)[:200]}: cannot be read ({told}). Give a file or a directory.") from error
    if special:
        raise DataError(
            f"{path}: a pipe, a socket or a device, but data are read more than once. Write them to a file."
        )
    if directory:
        return _inside(path)
    return [path] if exists or not re.search(r"[*?\[]", path.name) else _matching(path)


def kind_of(path: Path) -> str:
    """`jsonl`, `json`, `csv`, `tsv` or `parquet`, by the file's name."""
    return KINDS.get(_suffix(path), "jsonl")


def head_of(file: IO[bytes], path: Path) -> bytes:
    """The first bytes of a text file, which is at its start afterwards.

    Raises: DataError, if they are those of something else; whatever reading raises.
    """
    head = file.read(HEAD_BYTES)
    file.seek(0)
    refuse_foreign(head, path)
    if b"\0" in head[:2] and head.count(b"\0") * 3 > len(head) > 3:
        raise DataError(f"{path}: every second byte is zero, as in UTF-16. Save it as UTF-8.")
    if b"\r" in head.rstrip(b"\r\n") and b"\n" not in head:
        raise DataError(f"{path}: lines end with a carriage return alone. Save it with line feeds.")
    return head


def refuse_foreign(head: bytes, path: Path) -> None:
    """Raises: DataError, if a file begins as one of a kind that is not read, or not under this name."""
    begins = head.lstrip().lower() if head.lstrip()[:1] == b"<" else head
    for mark, what, advice in _FOREIGN:
        if begins.startswith(mark):
            raise DataError(f"{path}: expected {kind_of(path).upper()}, found {what}. {advice}.")


def _inside(directory: Path) -> list[Path]:
    found = sorted(item for item in directory.iterdir() if item.is_file() and _suffix(item) in KINDS)
    shards = [item for item in found if not item.name.startswith(".")]
    if not shards:
        raise DataError(
            f"{directory}: holds no data files. Expected shards named *{', *'.join(KINDS)} right inside it."
        )
    splits = {split for item in shards for split in _SPLIT.findall(item.name.lower())}
    if len(splits) > 1:
        raise DataError(
            f"{directory}: holds the files of several splits ({', '.join(sorted(splits))}), which must not be mixed. "
            f"Name them apart, for instance `path: {directory}/train*`, `test_path: {directory}/test*`."
        )
    return _of_one_kind(shards, directory)


def _matching(pattern: Path) -> list[Path]:
    shards = sorted(item for item in pattern.parent.glob(pattern.name) if item.is_file())
    if not shards:
        raise DataError(
            f"{pattern}: cannot be read (no file matches). Give a file, a directory, or a pattern that matches."
        )
    return _of_one_kind(shards, pattern)


def _of_one_kind(shards: list[Path], name: Path) -> list[Path]:
    kinds = sorted({kind_of(item) for item in shards})
    if len(kinds) > 1:
        raise DataError(f"{name}: holds {' and '.join(kinds)} files. Keep shards of one kind, or name one file.")
    return shards


def _suffix(path: Path) -> str:
    name = path.name.lower()
    return Path(name.removesuffix(".gz")).suffix
