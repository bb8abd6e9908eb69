"""The files for a device: what each does and costs, the student's beside the teacher's, coarse formats beside fine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from markupsafe import Markup

from eyas.latency import Figure
from eyas.recipe import BenchStage, ExportStage
from eyas.records import Mode
from eyas.report.compare import Comparison, compare
from eyas.report.evidence import Evidence, read_predictions
from eyas.report.plots import Point, scatter
from eyas.report.words import label
from eyas.stats import shown_below
from eyas.storage.artifacts import MANIFEST, read_json

MARGIN = 0.02
"""Of non-inferiority: a coarser file that loses fewer than 2 points is as good."""
FINEST = {"gguf": "gguf-f16", "onnx": "onnx-fp32"}
"""What the other formats of a family are compared with."""
RATIOS = ("tpot_s", "ttft_s", "e2e_s", "peak_rss_bytes")


@dataclass(frozen=True)
class Deployed:
    """One exported file."""

    stage: str
    role: str
    format: str
    facts: Mapping[str, Any]
    """What its export stage measured: accuracy, parity, bytes."""
    measured: Mapping[str, Any] | None
    """What the bench stage did; None where it was not measured here."""
    bench: str | None
    """That stage: only files that were measured in turns with one another are compared."""

    @property
    def family(self) -> str:
        """`gguf-q8_0` -> `gguf`."""
        return self.format.split("-")[0]

    def figure(self, name: str) -> Figure | None:
        """A measured figure, round by round."""
        found = self.measured and self.measured.get(name)
        return Figure(tuple(found["rounds"])) if found else None


@dataclass(frozen=True)
class Ratios:
    """One file beside another: figures of `a` over those of `b`, and what it gains in accuracy."""

    a: Deployed
    b: Deployed
    figures: Mapping[str, Figure]
    size: float
    """Bytes of b over those of a."""
    accuracy: Mapping[Mode, Comparison]

    def standing(self, mode: Mode) -> Literal["non-inferior", "worse", "not shown"]:
        """Whether `a` loses fewer than MARGIN to `b`, by the 95 % interval; more only if McNemar's p is below 0.05."""
        found = self.accuracy[mode].result
        if found.low > -MARGIN:
            return "non-inferior"
        return "worse" if shown_below(found, -MARGIN) else "not shown"


def deployed(evidence: Evidence) -> list[Deployed]:
    """Every exported file, in the recipe's order."""
    measured: dict[str, tuple[Mapping[str, Any] | None, str | None]] = {}
    for bench, stage in evidence.stages.items():
        if isinstance(stage, BenchStage):
            measured |= {name: (found, bench) for name, found in evidence.artifacts[bench].facts["files"].items()}
    return [
        Deployed(
            name, stage.models[0], stage.formats[0], evidence.artifacts[name].facts, *measured.get(name, (None, None))
        )
        for name, stage in evidence.stages.items()
        if isinstance(stage, ExportStage)
    ]


def bench_facts(evidence: Evidence) -> list[Mapping[str, Any]]:
    """What every bench stage did, for all its files alike, and on which machine."""
    found: list[Mapping[str, Any]] = []
    for name, stage in evidence.stages.items():
        if isinstance(stage, BenchStage):
            made = evidence.artifacts[name]
            machine = read_json(made.path / MANIFEST)["made_on"]
            found.append({**made.facts, "name": name, "machine": f"{machine['cpu']}, {machine['cores']} cores"})
    return found


def against_teacher(evidence: Evidence, files: Sequence[Deployed]) -> list[Ratios]:
    """Every file beside the teacher's of the same format."""
    teachers = {file.format: file for file in files if file.role == "teacher"}
    return [
        _ratios(evidence, file, teachers[file.format])
        for file in files
        if file.role != "teacher" and file.format in teachers
    ]


def against_finest(evidence: Evidence, files: Sequence[Deployed]) -> list[Ratios]:
    """Every file beside its model's finest one of the same family."""
    finest = {(file.role, file.family): file for file in files if file.format == FINEST.get(file.family)}
    return [
        _ratios(evidence, file, finest[file.role, file.family])
        for file in files
        if (file.role, file.family) in finest and file.format != FINEST[file.family]
    ]


def figure_ratios(a: Deployed, b: Deployed) -> dict[str, Figure]:
    """Round by round, where one bench stage measured both; nothing else was the same work at the same time."""
    if a.bench != b.bench:
        return {}
    return {name: own.over(other) for name in RATIOS if (own := a.figure(name)) and (other := b.figure(name))}


def _ratios(evidence: Evidence, a: Deployed, b: Deployed) -> Ratios:
    answers = [read_predictions(evidence.artifacts[file.stage].path / "predictions") for file in (a, b)]
    found = {
        mode: compare(*answers, a=a.role, b=b.role, mode=mode, seed=evidence.recipe.seed) for mode in evidence.modes
    }
    return Ratios(
        a=a, b=b, figures=figure_ratios(a, b), size=b.facts["bytes"] / a.facts["bytes"],
        accuracy={mode: item for mode, item in found.items() if item is not None},
    )  # fmt: skip


def scatters(evidence: Evidence, files: Sequence[Deployed]) -> list[Markup]:
    """Accuracy against time per token in each mode, the area of a dot being the file's size."""
    charts = []
    for mode in evidence.modes:
        points = [
            Point(
                role=file.role,
                label=f"{label(file.role)} {file.format}",
                x=1000 * tpot.value,
                y=100 * file.facts["accuracy"][mode]["value"],
                area=file.facts["bytes"],
                low=100 * file.facts["accuracy"][mode]["low"],
                high=100 * file.facts["accuracy"][mode]["high"],
            )
            for file in files
            if mode in file.facts["accuracy"] and (tpot := file.figure("tpot_s"))
        ]
        if points:
            charts.append(
                scatter(
                    points, name=f"deployment-{mode}", title=f"{mode.capitalize()} mode", xlabel="TPOT, ms",
                    ylabel="accuracy, %",
                )
            )  # fmt: skip
    return charts


def summary_rows(evidence: Evidence) -> list[dict[str, Any]]:
    """For `summary.json`: one entry a file, with what it is to the teacher's of its format."""
    files = deployed(evidence)
    beside = {ratios.a.stage: ratios for ratios in against_teacher(evidence, files)}
    return [_summary_row(file, beside.get(file.stage)) for file in files]


def _summary_row(file: Deployed, beside: Ratios | None) -> dict[str, Any]:
    facts, measured = file.facts, file.measured or {}
    keys = ("ttft_s", "tpot_s", "e2e_s", "load_s", "prefill_tok_per_s", "decode_tok_per_s", "peak_rss_bytes",
            "energy_j_per_token", "bandwidth_share", "host_share")  # fmt: skip
    return {
        "model": file.role,
        "format": file.format,
        "quantisation": facts["quantisation"],
        "file": facts["file"],
        "accuracy": {mode: dict(found) for mode, found in facts["accuracy"].items()},
        "against_model": {mode: dict(found) for mode, found in facts["against_model"].items()},
        "parity": facts["parity"],
        "bytes": facts["bytes"],
        "bits_per_weight": facts["bits_per_weight"],
        "threads": measured.get("threads"),
        "itl_s": measured.get("itl_s"),
        **{key: {name: found[name] for name in ("value", "low", "high")} if (found := measured.get(key)) else None
           for key in keys},
        "teacher": None if beside is None else {
            "size": beside.size,
            **{name: {"value": figure.value, "low": figure.low, "high": figure.high}
               for name, figure in beside.figures.items()},
            "accuracy": {mode: item.as_dict() for mode, item in beside.accuracy.items()},
        },
    }  # fmt: skip
