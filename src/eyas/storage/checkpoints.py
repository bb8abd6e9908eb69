"""Training checkpoints that are whole or absent: written aside, checksummed, fsynced, renamed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from eyas.storage.artifacts import disk_errors, fsync_tree
from eyas.storage.hashing import sha256_of

CHECKSUMS = "checksums.json"
KEPT = 2
"""How many are kept: a second one in case the newest is damaged."""


def draft_directory(root: Path, step: int) -> Path:
    """Where the checkpoint of `step` is written before it is published."""
    return root / f".step-{step}.tmp"


def publish(root: Path, step: int) -> None:
    """Make the draft of `step` a checkpoint and delete the oldest beyond KEPT."""
    draft, final = draft_directory(root, step), root / f"step-{step:08d}"
    with disk_errors(root):
        sums = {str(path.relative_to(draft)): sha256_of(path) for path in sorted(draft.rglob("*")) if path.is_file()}
        (draft / CHECKSUMS).write_text(json.dumps(sums))
        fsync_tree(draft)
        if final.is_dir():
            shutil.rmtree(final)
        os.replace(draft, final)
        fsync_tree(root, deep=False)
        for old in sorted(root.glob("step-*"))[:-KEPT]:
            shutil.rmtree(old)


def latest_valid(root: Path) -> Path | None:
    """The newest checkpoint whose every file matches its checksum; drafts and damaged ones are deleted."""
    for leftover in root.glob(".step-*.tmp"):
        shutil.rmtree(leftover)
    for path in sorted(root.glob("step-*"), reverse=True):
        if _is_whole(path):
            return path
        shutil.rmtree(path)
    return None


def _is_whole(path: Path) -> bool:
    try:
        sums = json.loads((path / CHECKSUMS).read_text())
    except (OSError, ValueError):
        return False
    return all((path / name).is_file() and sha256_of(path / name) == digest for name, digest in sums.items())
