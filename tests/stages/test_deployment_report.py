"""The deployment table's arithmetic on hand-made figures."""

from __future__ import annotations

from typing import Any

import pytest

from eyas.latency import Figure
from eyas.report.compare import Comparison
from eyas.report.deployment import Deployed, Ratios
from eyas.report.plots import Point, scatter
from eyas.report.words import less, less_span, nats
from eyas.stats import paired_difference


def file(role: str, format_: str, size: int, tpot: tuple[float, ...]) -> Deployed:
    figure = {"value": 0.0, "low": 0.0, "high": 0.0, "rounds": list(tpot)}
    return Deployed(
        f"export.{role}.{format_}",
        role,
        format_,
        {"bytes": size},
        {"tpot_s": figure, "energy_j_per_token": None},
        "bench",
    )


def beside(wins: int, losses: int, n: int) -> Ratios:
    """`a` is right on so many of n examples that `b` gets wrong, and wrong on so many that it gets right."""
    found = paired_difference([0.0] * losses + [1.0] * (n - losses), [1.0] * (n - wins) + [0.0] * wins)
    a, b = file("distilled", "gguf-q8_0", 50, (1.0,)), file("distilled", "gguf-f16", 100, (2.0,))
    return Ratios(
        a=a, b=b, figures={}, size=2.0, accuracy={"fast": Comparison("distilled", "distilled", "fast", found)}
    )


def test_a_figure_keeps_its_rounds_so_that_ratios_pair_them() -> None:
    student, teacher = (
        file("distilled", "gguf-f16", 1, (1.0, 4.0, 2.0)),
        file("teacher", "gguf-f16", 1, (2.0, 10.0, 8.0)),
    )
    own, other = student.figure("tpot_s"), teacher.figure("tpot_s")
    assert own is not None
    assert other is not None
    ratio = own.over(other)
    assert ratio.rounds == (0.5, 0.4, 0.25)  # 1/2, 4/10, 2/8: not 2/8 of the medians
    assert (less(ratio), less_span(ratio)) == ("60 % less", "50 to 75")
    assert student.figure("energy_j_per_token") is None
    assert Deployed("s", "r", "ascend", {}, None, None).figure("tpot_s") is None


def test_a_cost_is_said_as_one() -> None:
    dearer = Figure((1.2, 1.5))
    assert (less(dearer), less_span(dearer)) == ("35 % more", "−50 to −20")


def test_divergences_of_all_sizes_are_written_alike() -> None:
    assert [nats(value) for value in (0.352, 0.0054, 7.31e-6, -2e-10)] == ["0.35", "0.0054", "7.3e-6", "-2e-10"]


@pytest.mark.parametrize(
    ("wins", "losses", "n", "expected"),
    [
        (0, 0, 2000, "non-inferior"),
        (0, 200, 2000, "worse"),
        (0, 2, 100, "not shown"),
        (0, 0, 50, "not shown"),
        (1, 0, 50, "not shown"),
        (1, 0, 2, "not shown"),
        (0, 1, 1, "not shown"),
        (0, 5, 10, "not shown"),  # the interval lies below −2 points, but p = 2 / 2^5
    ],
)
def test_what_is_shown_of_a_coarser_file(wins: int, losses: int, n: int, expected: str) -> None:
    assert beside(wins, losses, n).standing("fast") == expected


def test_every_dot_of_the_picture_is_named_inside_it() -> None:
    def point(role: str, x: float, y: float) -> Point:
        return Point(role=role, label=f"{role} q8", x=x, y=y, low=y - 1, high=y + 1, area=10.0)

    chart: Any = scatter(
        [point("distilled", 0.1, 50.0), point("teacher", 0.3, 50.0), point("sft", 0.2, 50.1)],
        name="x", title="Fast mode", xlabel="TPOT, ms", ylabel="accuracy, %",
    )  # fmt: skip
    assert all(f"{role} q8" in chart for role in ("distilled", "teacher", "sft"))
    assert "accuracy, % against TPOT, ms: distilled q8 0.1, 50" in chart
