"""SHA-256 of files, for artifacts and identities; it loads nothing, so that a runtime may use it too."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_once(path: Path) -> str:
    """As `sha256_of`, but read once a process as long as the file's size and time stay the same."""
    state = path.stat()
    return _remembered(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4096)
def _remembered(path: Path, size: int, mtime_ns: int) -> str:
    del size, mtime_ns
    return sha256_of(path)
