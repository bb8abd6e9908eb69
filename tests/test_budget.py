"""Which file is recommended: the budget first, then accuracy, then speed."""

from __future__ import annotations

from typing import Any

import pytest

from eyas.budget import Budget, accuracy_of, parse_bytes, parse_seconds, recommend
from eyas.errors import DataError
from eyas.report.deployment_console import recommendation_lines


def row(name: str, *, reasoning: float, fast: float, tpot: float | None, rss: float = 100.0) -> dict[str, Any]:
    return {
        "file": name, "bytes": 10, "accuracy": {"reasoning": {"value": reasoning}, "fast": {"value": fast}},
        "tpot_s": None if tpot is None else {"value": tpot}, "ttft_s": {"value": 0.1}, "peak_rss_bytes": {"value": rss},
    }  # fmt: skip


BEST = row("best", reasoning=0.80, fast=0.60, tpot=4.0, rss=900)
NEAR = row("near", reasoning=0.79, fast=0.58, tpot=1.0, rss=500)
"""Mean 0.685, 1.5 points below the best's 0.70."""
FAST = row("fast", reasoning=0.50, fast=0.50, tpot=0.5)


def test_the_fastest_of_those_as_good_as_the_best_is_recommended() -> None:
    assert accuracy_of(BEST) == pytest.approx(0.70)
    found = recommend([BEST, NEAR, FAST], Budget())
    assert (found.row, found.best, found.fitting) == (NEAR, BEST, 3)
    farther = row("farther", reasoning=0.77, fast=0.58, tpot=1.0)  # 2.5 points below
    assert recommend([BEST, farther], Budget()).row is BEST


def test_what_breaks_a_limit_or_was_not_measured_is_no_candidate() -> None:
    assert recommend([BEST, NEAR, FAST], Budget(rss_bytes=499)).row is FAST
    assert recommend([BEST, NEAR, FAST], Budget(rss_bytes=50)).row is None
    assert recommend([BEST, NEAR], Budget(tpot_s=2.0)).row is NEAR
    assert recommend([row("dark", reasoning=1.0, fast=1.0, tpot=None), FAST], Budget()).row is FAST
    unmeasured = FAST | {"peak_rss_bytes": None}
    assert recommend([unmeasured], Budget(rss_bytes=1e12)).row is None
    found = recommend([row("dark", reasoning=1.0, fast=1.0, tpot=None)], Budget())
    (said,) = recommendation_lines(found, Budget())
    assert said.startswith("Nothing to recommend: no file was both asked")  # no limit is too low
    assert Budget(rss_bytes=499, ttft_s=0.05, bytes=9).exceeded(NEAR) == ["rss_bytes", "bytes", "ttft_s"]


def test_sizes_and_times_are_read_with_their_units() -> None:
    assert parse_bytes("1GiB") == 2**30
    assert parse_bytes("1.5 MB") == 1_500_000
    assert parse_bytes("800") == 800
    assert parse_seconds("500ms") == 0.5
    assert parse_seconds("0.2 s") == 0.2
    for read, wrong in ((parse_bytes, "1 GiBs"), (parse_bytes, "-1MB"), (parse_seconds, "500"), (parse_seconds, "0ms")):
        with pytest.raises(DataError, match="is no positive number with one of the units"):
            read(wrong)
