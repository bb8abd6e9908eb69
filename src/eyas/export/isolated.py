"""Exporters whose packages would disturb this environment's: each in a directory that only its own process sees."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from filelock import FileLock

from eyas.errors import ExportError
from eyas.storage.artifacts import atomic_path


def isolated_directory(name: str, *, requirements: Sequence[str], cache: Path | None, what: str) -> Path:
    """The directory with these packages, without their dependencies, installed if it is not there yet.

    Below `cache`, by default `$XDG_CACHE_HOME/eyas` (`~/.cache/eyas`); one for each `name`, Python version and set of
    requirements. `what` is the exporter in an error's words.

    Raises: ExportError, if it has to be installed and cannot be.
    """
    root = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eyas"
    asked = hashlib.sha256("\n".join(requirements).encode()).hexdigest()[:8]
    directory = root / f"{name}-python{sys.version_info.major}.{sys.version_info.minor}-{asked}"
    if not directory.is_dir():
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{directory.name}.lock"):
            if not directory.is_dir():
                with atomic_path(directory) as draft:
                    _install(draft, directory, requirements=requirements, what=what)
    return directory


def _install(draft: Path, directory: Path, *, requirements: Sequence[str], what: str) -> None:
    if importlib.util.find_spec("pip") is not None:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
    elif (uv := shutil.which("uv")) is not None:
        command = [uv, "pip", "install", "--quiet", "--python", sys.executable]
    else:
        raise ExportError(f"installing {what} needs pip or uv; this environment has neither.")
    done = run_program([*command, "--no-deps", "--target", str(draft), *requirements])
    if done.returncode:
        by_hand = f"pip install --no-deps --target {directory} {' '.join(requirements)}"
        raise ExportError(
            f"{what} is not installed and could not be ({last_line(done.stderr)}). It is fetched once: go online and "
            f"run the same command again, or run `{by_hand}` from wheels that you have."
        )


def run_program(
    command: Sequence[str], *, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, with an empty standard input: a question of its is answered by the end of file."""
    return subprocess.run(
        command, capture_output=True, text=True, errors="replace", check=False, stdin=subprocess.DEVNULL,
        env=os.environ | dict(environment or {}),
    )  # fmt: skip


def last_line(output: str) -> str:
    """What a program said last, at most 300 characters."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1][:300].rstrip(".") if lines else "it said nothing"
