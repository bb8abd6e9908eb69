"""Signatures of more prompts than memory should hold: a file for each band."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np

from eyas.filtering.near import BANDS, Keys
from eyas.storage.artifacts import disk_errors


class BandFiles:
    """`eyas.filtering.near.Bands` in a directory of its own; open until closed, in one band at a time in memory."""

    def __init__(self, directory: Path) -> None:
        """`directory` must not exist yet.

        Raises: StorageError, if it cannot be made.
        """
        self._directory, self._stack = directory, ExitStack()
        with disk_errors(directory):
            directory.mkdir(parents=True)
            self._files = [
                self._stack.enter_context((directory / f"{band:02d}.band").open("w+b")) for band in range(BANDS)
            ]

    def append(self, signatures_NB: Keys) -> None:
        """As `Bands.append`.

        Raises: StorageError, if the disk is full.
        """
        with disk_errors(self._directory):
            for band, file in enumerate(self._files):
                file.write(signatures_NB[:, band].tobytes())

    def __getitem__(self, band: int) -> Keys:
        with disk_errors(self._directory):
            self._files[band].flush()
        return np.fromfile(self._directory / f"{band:02d}.band", np.uint64)

    def close(self) -> None:
        """Close the files."""
        self._stack.close()
