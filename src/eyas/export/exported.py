"""What every export hands back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Exported:
    """The files of one export, complete on disk."""

    files: tuple[Path, ...]
    """The one that a runtime opens first (a GGUF file, a manifest), then all the others."""
    format: str
    quantisation: str
    """As the format names it: F16, Q8_0, float16, …"""
    bytes: int
    """Of all files together."""
    facts: Mapping[str, Any]
    """What a manifest should say of it: JSON values."""
