"""Static charts as inline SVG: text stays text, colours are CSS variables, so light and dark both work."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#010101", "#020202", "#030303", "#040404"
_CHROME = {INK: "--ink", MUTED: "--muted", GRID: "--line", PAPER: "--paper"}
PALETTE: Mapping[str, str] = {
    "base": "#8a8f98",
    "sft": "#56b4e9",
    "control": "#e69f00",
    "control_seconds": "#c4a000",
    "seqkd": "#cc79a7",
    "distilled": "#0072b2",
    "teacher": "#009e73",
}
"""Okabe & Ito's colours (jfly.uni-koeln.de/color), told apart with every common colour blindness."""
OTHER = "#d55e00"
_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 10,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9.5,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "text.color": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True)
class Dot:
    """One row of a dot-and-interval chart; values as drawn (percent, nats)."""

    label: str
    role: str
    value: float
    text: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Curve:
    """One line of a training chart."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str


@dataclass(frozen=True)
class Point:
    """One dot of a scatter plot, with the interval of its y."""

    role: str
    label: str
    x: float
    y: float
    low: float
    high: float
    area: float
    """In any unit, the same for all points."""


def dots(rows: Sequence[Dot], *, name: str, title: str, xlabel: str, limits: tuple[float, float]) -> Markup:
    """Horizontal dots with 95 % intervals where known, the value written beside each."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(4.7, 0.75 + 0.34 * len(rows))
        for at, row in enumerate(rows):
            colour, strong = PALETTE.get(row.role, OTHER), row.role == "distilled"
            if row.low is not None and row.high is not None:
                axes.plot(
                    [row.low, row.high],
                    [at, at],
                    color=colour,
                    linewidth=3.2 if strong else 2.2,
                    alpha=0.55,
                    clip_on=False,
                )
            axes.plot([row.value], [at], "o", color=colour, markersize=8.5 if strong else 7, clip_on=False)
            right = max(row.value, row.high if row.high is not None else row.value)
            weight = "bold" if strong else "normal"
            offset = {"textcoords": "offset points", "xytext": (8, 0), "va": "center", "fontsize": 10}
            axes.annotate(row.text, (right, at), fontweight=weight, **offset)  # type: ignore[arg-type]
        axes.set_yticks(range(len(rows)), [row.label for row in rows])
        for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
            tick.set_color(INK)
            tick.set_fontweight("bold" if row.role == "distilled" else "normal")
        axes.set_ylim(len(rows) - 0.4, -0.6)
        low, high = limits
        axes.set_xlim(low, high + 0.13 * (high - low))
        axes.grid(axis="y", visible=False)
        axes.set_title(title, pad=8)
        axes.set_xlabel(xlabel)
        return _svg(figure, name=name, label=f"{title}: " + ", ".join(f"{row.label} {row.text}" for row in rows))


def curves(lines: Sequence[Curve], *, name: str, title: str, marks: Sequence[Curve] = ()) -> Markup:
    """Loss against optimiser step, each line named at its end; `marks` are points on a scale of their own."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(3.5, 2.25)
        for line in lines:
            axes.plot(line.x, line.y, color=line.colour, linewidth=1.7)
        _name_ends(axes, lines)
        for mark in marks:
            twin = axes.twinx()
            twin.plot(mark.x, mark.y, "o", color=mark.colour, markersize=4.5)
            twin.set_ylim(0, max(1e-9, *mark.y) * 1.3)
            twin.set_yticks([])
            twin.grid(visible=False)
            for x, y in zip(mark.x, mark.y, strict=True):
                place = {"textcoords": "offset points", "xytext": (0, 6), "ha": "center", "fontsize": 9}
                twin.annotate(f"{100 * y:.0f}", (x, y), color=mark.colour, **place)  # type: ignore[arg-type]
        top = max((max(line.y) for line in lines), default=1.0)
        axes.set_ylim(0, min(top, 4 * max(line.y[len(line.y) // 2] for line in lines)) * 1.08)
        axes.set_xlim(0, max(line.x[-1] for line in lines) * 1.02)
        axes.locator_params(axis="both", nbins=5)
        axes.set_title(title, pad=8)
        axes.set_xlabel("step")
        ends = ", ".join(f"{line.label} {line.y[-1]:.3g}" for line in lines)
        return _svg(figure, name=name, label=f"{title}: at the end {ends}")


def scatter(points: Sequence[Point], *, name: str, title: str, xlabel: str, ylabel: str) -> Markup:
    """Dots with vertical 95 % intervals, x on a logarithmic scale from the least to the greatest, each dot named."""
    largest = max(point.area for point in points)
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(4.7, 3.4)
        for point in sorted(points, key=lambda point: -point.area):
            colour = PALETTE.get(point.role, OTHER)
            axes.plot([point.x] * 2, [point.low, point.high], color=colour, linewidth=1.6, alpha=0.55)
            axes.scatter([point.x], [point.y], s=25 + 400 * point.area / largest, color=colour, alpha=0.75, linewidth=0)
        _name_points(axes, points)
        axes.set_xscale("log")
        least, most = min(point.x for point in points), max(point.x for point in points)
        axes.set_xlim(least / 1.6, most * 2.6)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("{x:g}" if most < 5 * least else "")
        axes.set_title(title, pad=8)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        said = "; ".join(f"{point.label} {point.x:.3g}, {point.y:.3g}" for point in points)
        return _svg(figure, name=name, label=f"{title}, {ylabel} against {xlabel}: {said}")


def _name_points(axes: Axes, points: Sequence[Point]) -> None:
    """Labels right of the dots, pushed down where dots are near one another."""
    top, bottom = max(point.high for point in points), min(point.low for point in points)
    span = top - bottom or 1.0
    placed: list[float] = []
    for point in sorted(points, key=lambda point: -point.y):
        y = min([point.y, *(before - 0.065 * span for before in placed[-1:])])
        placed.append(y)
        place = {"textcoords": "data", "xytext": (point.x * 1.12, y), "va": "center", "fontsize": 8.5}
        axes.annotate(point.label, (point.x, point.y), color=INK, **place)  # type: ignore[arg-type]
    axes.set_ylim(min(bottom, *placed) - 0.05 * span, top + 0.05 * span)


def histogram(parts: Sequence[Curve], *, name: str, title: str) -> Markup:
    """Examples by pass rate (0 to 1), the parts' bars side by side, one colour each."""
    values = sorted({x for part in parts for x in part.x})
    width = 0.8 * min([after - before for before, after in pairwise(values)] or [0.1]) / len(parts)
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(3.5, 2.25)
        for at, part in enumerate(parts):
            shift = (at - (len(parts) - 1) / 2) * width
            axes.bar([x + shift for x in part.x], part.y, width=width, color=part.colour, label=part.label)
        axes.set_xlim(-0.08, 1.08)
        axes.grid(axis="x", visible=False)
        axes.locator_params(axis="y", nbins=4, integer=True)
        axes.set_title(title, pad=8)
        axes.set_xlabel("pass rate")
        axes.legend(frameon=False, fontsize=9, labelcolor="linecolor", handlelength=0.8)
        counts = "; ".join(
            f"{part.label} " + ", ".join(f"{x:g}: {y:g}" for x, y in zip(part.x, part.y, strict=True)) for part in parts
        )
        return _svg(figure, name=name, label=f"{title}, examples by pass rate: {counts}")


def _name_ends(axes: Axes, lines: Sequence[Curve]) -> None:
    """Labels right of the last points, pushed apart where lines end close together."""
    if not lines:
        return
    top = max(max(line.y) for line in lines) or 1.0
    placed: list[float] = []
    for line in sorted(lines, key=lambda line: line.y[-1]):
        y = max([line.y[-1], *(before + 0.09 * top for before in placed[-1:])])
        placed.append(y)
        place = {"textcoords": "offset points", "xytext": (5, 0), "va": "center", "fontsize": 9}
        axes.annotate(
            line.label, (line.x[-1], y), color=line.colour, annotation_clip=False, **place  # type: ignore[arg-type]
        )  # fmt: skip


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _svg(figure: Figure, *, name: str, label: str) -> Markup:
    """The figure as an `<svg>` element: no prologue, no network names, ids of its own, a text alternative."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<(metadata|style)\b.*?</\1>", "", text, flags=re.DOTALL)
    text = re.sub(r"font-family: [^;\"]*; ?", "", text)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(url\(|href=")#', rf"\1#{name}-", text)
    for colour, variable in _CHROME.items():
        text = text.replace(colour, f"var({variable})")
    for colour in (*PALETTE.values(), OTHER):
        text = text.replace(colour, f"var(--c{colour[1:]}, {colour})")
    width = re.search(r'<svg[^>]*?width="([\d.]+)pt"', text)
    style = f"max-width:{float(width.group(1)) * 4 / 3:.0f}px" if width else ""
    text = re.sub(r'(<svg[^>]*?) height="[\d.]+pt"', r"\1", text, count=1)
    opening = Markup('<svg class="chart" role="img" aria-label="{}" style="{}" ').format(label, style)
    text = re.sub(r'(<svg[^>]*?) width="[\d.]+pt"', r"\1", text, count=1)
    return Markup(opening + Markup(text.removeprefix("<svg ")))
