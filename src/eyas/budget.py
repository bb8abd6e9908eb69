"""Which exported file to ship within what a device has. Pure arithmetic on measured figures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eyas.errors import DataError

AS_GOOD = 0.02
"""Accuracy that a faster file may lose to the best one that fits: 2 points, the margin of a file's gate."""
BYTES = {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
SECONDS = {"US": 1e-6, "MS": 1e-3, "S": 1.0}


@dataclass(frozen=True)
class Budget:
    """Upper limits; None: any."""

    rss_bytes: float | None = None
    bytes: float | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None

    def exceeded(self, row: Mapping[str, Any]) -> list[str]:
        """Which limits a file breaks, by their names; a figure that was not measured breaks its limit."""
        figures = {
            "rss_bytes": value_of(row, "peak_rss_bytes"),
            "bytes": row["bytes"],
            "ttft_s": value_of(row, "ttft_s"),
            "tpot_s": value_of(row, "tpot_s"),
        }
        limits = {name: limit for name in figures if (limit := getattr(self, name)) is not None}
        return [name for name, limit in limits.items() if figures[name] is None or figures[name] > limit]


@dataclass(frozen=True)
class Recommendation:
    """The file to ship, and what it was chosen among."""

    row: Mapping[str, Any] | None
    """None where no file fits."""
    candidates: int
    """Files with accuracy and TPOT."""
    fitting: int
    best: Mapping[str, Any] | None
    """The most accurate one that fits; another than `row` where that one is as good and faster."""


def value_of(row: Mapping[str, Any], key: str) -> float | None:
    """A measured figure's median; None where it was not measured."""
    found = row.get(key)
    return None if found is None else float(found["value"])


def accuracy_of(row: Mapping[str, Any]) -> float:
    """Mean accuracy over the modes that were asked, a share."""
    values = [found["value"] for found in row["accuracy"].values()]
    return float(sum(values) / len(values))


def recommend(rows: Sequence[Mapping[str, Any]], budget: Budget) -> Recommendation:
    """Of the files within the budget the fastest (least TPOT) that is at most AS_GOOD below the most accurate.

    `rows` are `deployment` of a run's `summary.json`; those without accuracy or TPOT are no candidates. Accuracy is
    the mean over the modes.
    """
    candidates = [row for row in rows if row["accuracy"] and value_of(row, "tpot_s") is not None]
    fitting = [row for row in candidates if not budget.exceeded(row)]
    if not fitting:
        return Recommendation(row=None, candidates=len(candidates), fitting=0, best=None)
    best = max(fitting, key=accuracy_of)
    as_good = [row for row in fitting if accuracy_of(row) >= accuracy_of(best) - AS_GOOD]
    fastest = min(as_good, key=lambda row: row["tpot_s"]["value"])
    return Recommendation(row=fastest, candidates=len(candidates), fitting=len(fitting), best=best)


def parse_bytes(text: str) -> float:
    """`1GiB`, `512 MB`, `800000` -> bytes. Raises: DataError, if it is no size."""
    return _parsed(text, BYTES, plain="B", example="1GiB, 512MB")


def parse_seconds(text: str) -> float:
    """`500ms`, `0.2s` -> seconds. Raises: DataError, if it is no time with its unit."""
    return _parsed(text, SECONDS, plain=None, example="500ms, 0.2s")


def _parsed(text: str, units: Mapping[str, float], *, plain: str | None, example: str) -> float:
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    unit = (found.group(2).upper() or plain) if found else None
    if found is None or unit is None or unit not in units or float(found.group(1)) == 0:
        raise DataError(
            f"{text!r} is no positive number with one of the units {', '.join(units)}; for instance {example}."
        )
    return float(found.group(1)) * units[unit]
