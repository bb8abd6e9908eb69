"""An ablation as one self-contained page, as a Markdown table and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import yaml
from markupsafe import Markup

from eyas.report.ablation import (
    Ablation,
    Accuracy,
    Difference,
    Row,
    Verdict,
    accuracy,
    against_baseline,
    judge,
    names,
    rows,
    title,
    within_variants,
)
from eyas.report.ablation_words import answer, caveats, chance
from eyas.report.page import environment
from eyas.report.plots import Dot, dots
from eyas.report.words import count, duration, label, p_value, percent, points


def render(ablation: Ablation) -> str:
    """`ablation.html` as text; it loads nothing from anywhere."""
    made = rows(ablation)
    verdicts = judge(ablation, made)
    sections = _sections(ablation, made)
    known = [found for item in verdicts if (found := item.difference) is not None and not found.same_model]
    content: dict[str, Any] = {
        "ablation": ablation,
        "answer": answer(ablation, made, verdicts),
        "caveats": caveats(ablation, made),
        "failed": _failed(ablation),
        "modes": ablation.modes,
        "rows": [(title(ablation, row), row, [accuracy(row, mode) for mode in ablation.modes]) for row in made],
        "charts": _charts(ablation, made),
        "sections": [
            (
                anchor,
                heading,
                note,
                _titled(ablation, found, within=anchor == "within"),
                _scale(found, share=0.9),
                chance(len(found)),
            )
            for anchor, heading, note, found in sections
        ],
        "verdicts": verdicts,
        "claims_scale": _scale(known, share=1.0),
        "claims_chance": chance(len(known)),
        "changes": {
            ablation.variants[name]: yaml.safe_dump(dict(changed), sort_keys=False, allow_unicode=True, width=100)
            for name, changed in ablation.changes.items()
            if changed
        },
    }
    return environment().get_template("ablation.html").render(content)


def _sections(ablation: Ablation, made: Sequence[Row]) -> list[tuple[str, str, str, list[Difference]]]:
    """Anchor, heading, explanation and differences of each table of differences that has any."""
    found = [
        (
            "baseline",
            "Against the baseline",
            f"Each variant minus {ablation.variants[ablation.baseline]}, the model in the same role.",
            against_baseline(ablation, made),
        ),
        ("within", "Within each variant", "Models of one variant against each other.", within_variants(ablation, made)),
    ]
    return [section for section in found if section[3]]


def _titled(ablation: Ablation, found: Sequence[Difference], *, within: bool) -> list[tuple[str, Difference]]:
    return [(_pair(ablation, item, within=within), item) for item in found]


def _pair(ablation: Ablation, item: Difference, *, within: bool) -> str:
    """Both rows' headings; of one variant its name once, of the row that fewer variants share, and the two roles."""
    if not within:
        return f"{title(ablation, item.a)} − {title(ablation, item.b)}"
    own = min(item.a, item.b, key=lambda row: len(row.variants))
    roles = f"{label(item.a.role)} − {label(item.b.role)}"
    return roles if len(ablation.variants) == 1 else f"{names(ablation, own)}: {roles}"


def _scale(found: Sequence[Difference], *, share: float) -> float:
    """Half-width of the scale that intervals are drawn on: this share of them fits."""
    ends = sorted(max(abs(item.result.low), abs(item.result.high)) for item in found)
    return max(0.02, ends[int(share * (len(ends) - 1))]) if ends else 0.02


def _charts(ablation: Ablation, made: Sequence[Row]) -> list[Markup]:
    """Accuracy of what each variant is about, one chart a mode; of every model where there is one variant."""
    several = len(ablation.variants) > 1
    shown = [row for row in made if row.main or not several]
    shares = {(row.key, mode): accuracy(row, mode) for row in shown for mode in ablation.modes}
    top = min(100.0, 10.0 * math.ceil(10 * max((found.high for found in shares.values() if found), default=1.0)))
    charts = []
    for mode in ablation.modes:
        drawn = []
        for row in shown:
            found = shares[row.key, mode]
            if found is not None:
                low, high = 100 * found.low, 100 * found.high
                drawn.append(Dot(title(ablation, row), row.role, 100 * found.value, percent(found.value), low, high))
        if drawn:
            name = f"{mode.capitalize()} mode, mean over seeds"
            charts.append(dots(drawn, name=f"ablation-{mode}", title=name, xlabel="accuracy, %", limits=(0, top)))
    return charts


def _failed(ablation: Ablation) -> list[tuple[str, list[int], str]]:
    """(variant's label, seeds, error), seeds with the same error together."""
    found: dict[tuple[str, str], list[int]] = {}
    for (name, seed), error in ablation.failures.items():
        found.setdefault((ablation.variants[name] or ablation.name, error), []).append(seed)
    return [(shown, seeds, error) for (shown, error), seeds in found.items()]


def markdown(ablation: Ablation) -> str:
    """The tables for a README or a log."""
    made, modes = rows(ablation), ablation.modes
    seeds = ", ".join(map(str, ablation.seeds))
    parts = [
        _table(
            [f"accuracy, %, mean over seeds {seeds}", *(f"{mode} [95 %]" for mode in modes), "by seed", "n", "made in"],
            [
                [title(ablation, row), *(_share(found) for found in cells), _by_seed(cells), _n(cells),
                 duration(row.seconds) if row.seconds else "–"]
                for row in made
                for cells in [[accuracy(row, mode) for mode in modes]]
            ],
        )
    ]  # fmt: skip
    for anchor, heading, _, found in _sections(ablation, made):
        lines = [
            [_pair(ablation, item, within=anchor == "within"), item.mode,
             f"{points(item.result.difference)} {_span(item)}", p_value(item.result.p_value),
             ", ".join(points(value) for value in item.result.per_seed), count(item.result.n)]
            for item in found
        ]  # fmt: skip
        parts.append(_table([f"{heading.lower()}, points", "mode", "pooled, 95 %", "p", "by seed", "n"], lines))
    if verdicts := judge(ablation, made):
        parts.append(_table(["claim", "mode", "difference, points", "p", "verdict"], list(map(_verdict, verdicts))))
    parts += [" ".join([answer(ablation, made, verdicts), *caveats(ablation, made)])]
    if ablation.failures:
        parts.append(
            "\n".join(
                f"- FAILED: {ablation.variants[name] or ablation.name}, seed {seed}: {error.splitlines()[0]}"
                for (name, seed), error in ablation.failures.items()
            )
        )
    return "\n\n".join(parts) + "\n"


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    shown = [header, ["---"] * len(header), *([cell.replace("|", "\\|") for cell in line] for line in lines)]
    return "\n".join("| " + " | ".join(line) + " |" for line in shown)


def _share(found: Accuracy | None) -> str:
    return "–" if found is None else f"{percent(found.value)} [{percent(found.low)}, {percent(found.high)}]"


def _by_seed(cells: Sequence[Accuracy | None]) -> str:
    """Of each mode, in the order of the columns."""
    shown = [", ".join(map(percent, found.per_seed.values())) for found in cells if found is not None]
    return "; ".join(shown) or "–"


def _n(cells: Sequence[Accuracy | None]) -> str:
    return " / ".join(dict.fromkeys(count(found.n) for found in cells if found is not None)) or "–"


def _span(item: Difference) -> str:
    return f"[{points(item.result.low)}, {points(item.result.high)}]"


def _verdict(verdict: Verdict) -> list[str]:
    found = verdict.difference
    same = found is not None and found.same_model
    shown = "–" if found is None else "the same model" if same else f"{points(found.result.difference)} {_span(found)}"
    p = "–" if found is None or same else p_value(found.result.p_value)
    margin = f" (not worse than by {percent(verdict.claim.margin)})" if verdict.claim.expect == "not_worse" else ""
    return [verdict.claim.claim + margin, verdict.claim.mode, shown, p, verdict.outcome]


def as_dict(ablation: Ablation) -> dict[str, Any]:
    """`ablation.json`: shares between 0 and 1, seconds of wall clock."""
    made = rows(ablation)
    return {
        "name": ablation.name,
        "seeds": list(ablation.seeds),
        "variants": [
            {"name": name, "label": shown, "set": dict(ablation.changes[name])}
            for name, shown in ablation.variants.items()
        ],
        "accuracy": [
            {"variants": list(row.variants), "role": row.role, "mode": mode, "value": found.value, "low": found.low,
             "high": found.high, "n": found.n, "per_seed": dict(found.per_seed), "seconds": round(row.seconds, 3)}
            for row in made
            for mode in ablation.modes
            if (found := accuracy(row, mode)) is not None
        ],
        "differences": [_as_dict(item) for item in against_baseline(ablation, made)],
        "within": [_as_dict(item) for item in within_variants(ablation, made)],
        "claims": [
            {**item.claim.model_dump(mode="json"), "verdict": item.outcome,
             "difference": None if item.difference is None else _as_dict(item.difference)}
            for item in judge(ablation, made)
        ],
        "failures": [
            {"variant": name, "seed": seed, "error": error} for (name, seed), error in ablation.failures.items()
        ],
        "hardware": dict(ablation.hardware),
    }  # fmt: skip


def _as_dict(item: Difference) -> dict[str, Any]:
    found = item.result
    return {
        "a": item.a.key, "b": item.b.key, "mode": item.mode, "difference": found.difference, "low": found.low,
        "high": found.high, "n": found.n, "per_seed": dict(zip(item.seeds, found.per_seed, strict=True)),
    }  # fmt: skip
