"""One process per directory; the second one is told who holds it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from eyas.errors import Locked, StorageError
from eyas.storage.artifacts import disk_errors


@contextmanager
def locked(directory: Path, *, purpose: str) -> Iterator[None]:
    """Hold `directory` for this process; the kernel lets go of it when the process dies, however it dies.

    Raises: Locked, naming the holder's process, host, purpose and start.
    """
    with disk_errors(directory):
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise StorageError(f"{directory}: cannot be made ({error.strerror}). Choose another directory.") from error
        lock = FileLock(directory / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise Locked(f"{directory}: {_holder(directory)} is working here. Wait for it, or stop it first.") from None
    try:
        with disk_errors(directory):
            (directory / ".holder.json").write_text(
                json.dumps(
                    {
                        "pid": os.getpid(),
                        "host": socket.gethostname(),
                        "purpose": purpose,
                        "since": datetime.now(UTC).isoformat(timespec="seconds"),
                    }
                )
            )
        yield
    finally:
        (directory / ".holder.json").unlink(missing_ok=True)
        lock.release()


def _holder(directory: Path) -> str:
    try:
        found = json.loads((directory / ".holder.json").read_text())
        return f"process {found['pid']} on {found['host']} ({found['purpose']}, since {found['since']})"
    except (OSError, ValueError, KeyError):
        return "another process"
