"""Artifacts on disk: checksummed files, atomic writes, a manifest written last."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from eyas.errors import ArtifactError, CorruptArtifact, StorageError
from eyas.storage.hashing import sha256_of

FORMAT = 1
"""Version of the artifact layout; a reader refuses a newer one."""
MANIFEST = "manifest.json"
CLOCK = "clock.json"
UNSEALED = {"checkpoints", "candidates", "tensorboard", MANIFEST, CLOCK}
"""What a manifest does not vouch for: itself, private state, logs for the eye."""
PRIVATE = ("checkpoints", "candidates")
"""What only an unfinished stage needs."""
FULL_DISK = ("os error 28", "os error 122")
"""ENOSPC and EDQUOT as safetensors, written in Rust, words them."""


@dataclass(frozen=True)
class Artifact:
    """A finished stage's directory. `facts` are what the stage measured: tokens, rates, counts."""

    path: Path
    stage: str
    """Type of the stage that made it."""
    fingerprint: str
    config: Mapping[str, Any]
    facts: Mapping[str, Any]
    seconds: float
    """Wall-clock seconds of work, over all attempts, in whole steps and shards."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Relative path -> SHA-256."""


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk and a read-only directory into one clear StorageError."""
    try:
        yield
    except SafetensorError as error:
        if not any(code in str(error) for code in FULL_DISK):
            raise
        raise StorageError(_advice(path, "the disk is full; free some space")) from error
    except OSError as error:
        reasons = {
            errno.ENOSPC: "the disk is full; free some space",
            errno.EDQUOT: "the disk quota is used up; free some space",
            errno.EROFS: "the file system is read-only; choose another directory",
            errno.EACCES: "no permission to write there; choose another directory",
        }
        if isinstance(error, StorageError) or error.errno not in reasons:
            raise
        raise StorageError(_advice(path, reasons[error.errno])) from error


def _advice(path: Path, reason: str) -> str:
    return f"{path}: {reason} and run the same command again; finished work is kept."


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary sibling (file or directory made by the caller) that becomes `path` if the block succeeds.

    Fsynced and renamed, so that after a crash `path` is either complete or absent.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        remove(temporary)
        try:
            yield temporary
            fsync_tree(temporary)
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            os.replace(temporary, path)
            fsync_tree(path.parent, deep=False)
        finally:
            remove(temporary)


def remove(path: Path) -> None:
    """Delete a file, a link or a directory, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def fsync_tree(path: Path, *, deep: bool = True) -> None:
    """Make a file, or a directory with (`deep`) all it holds, durable."""
    inside = path.rglob("*") if deep and path.is_dir() and not path.is_symlink() else ()
    for item in [*inside, path]:
        descriptor = os.open(item, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically, keys in the given order, non-finite numbers refused."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises: ArtifactError, if there is no such file; CorruptArtifact, if it is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: not there. Run the recipe first.") from error
    except ValueError as error:
        raise CorruptArtifact(f"{path}: not readable ({error}). Run the recipe again.") from error


def seal(
    directory: Path, *, stage: str, fingerprint: str, config: Mapping[str, Any], inputs: Mapping[str, str],
    facts: Mapping[str, Any], seconds: float, made_on: Mapping[str, Any],
) -> Artifact:  # fmt: skip
    """Write the manifest, last: from here on the artifact exists."""
    paths = sorted(path.relative_to(directory) for path in directory.rglob("*") if path.is_file())
    files = {
        str(path): sha256_of(directory / path)
        for path in paths
        if not any(part.startswith(".") for part in path.parts) and path.parts[0] not in UNSEALED
    }
    write_json(
        directory / MANIFEST,
        {
            "format": FORMAT, "stage": stage, "fingerprint": fingerprint, "config": dict(config),
            "inputs": dict(inputs),
            "facts": dict(facts), "seconds": round(seconds, 3), "made_on": dict(made_on), "files": files,
        },
    )  # fmt: skip
    return open_artifact(directory)


def open_artifact(directory: Path) -> Artifact:
    """Read a manifest without looking at the files it lists.

    Raises: ArtifactError, if there is none or it is of a newer format; CorruptArtifact, if it is not readable.
    """
    path = directory / MANIFEST
    if not path.is_file():
        raise ArtifactError(f"{directory}: no {MANIFEST}, so this stage has not finished. Run the recipe again.")
    try:
        data = json.loads(path.read_text())
        if data["format"] > FORMAT:
            raise ArtifactError(f"{path}: format {data['format']}, this eyas reads up to {FORMAT}. Upgrade eyas.")
        return Artifact(
            path=directory, stage=data["stage"], fingerprint=data["fingerprint"], config=data["config"],
            facts=data["facts"], seconds=data["seconds"], files=data["files"],
        )  # fmt: skip
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptArtifact(
            f"{path}: not a readable manifest ({error}). Delete it and run the recipe again."
        ) from error


def damaged_files(artifact: Artifact) -> list[Path]:
    """The artifact's files that are missing or whose content does not match the manifest."""
    return [
        artifact.path / name
        for name, digest in artifact.files.items()
        if not (artifact.path / name).is_file() or sha256_of(artifact.path / name) != digest
    ]


def remove_leftovers(directory: Path) -> None:
    """Delete what a killed `atomic_path` left half-written; only whoever holds the directory's lock may."""
    for path in list(directory.rglob(".*.tmp")):
        remove(path)


def remove_drafts(path: Path) -> None:
    """As `remove_leftovers`, beside `path` alone, and only what was to have a name that ends with its name."""
    for draft in list(path.parent.glob(f".*{path.name}.*.tmp")):
        remove(draft)


class StageClock:
    """Seconds of work on a stage over all attempts; `save` is called wherever progress becomes durable."""

    def __init__(self, directory: Path, *, before: float = 0.0) -> None:
        self._path = directory / CLOCK
        try:
            self._before: float = json.loads(self._path.read_text())["seconds"]
        except (OSError, ValueError, KeyError, TypeError):
            self._before = before
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Wall-clock seconds so far, earlier attempts' durable part included."""
        return self._before + time.monotonic() - self._started

    def save(self) -> None:
        """Make the time so far durable."""
        write_json(self._path, {"seconds": self.seconds})
