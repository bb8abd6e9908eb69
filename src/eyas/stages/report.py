"""Report: one self-contained page and `summary.json` over everything the run made."""

from __future__ import annotations

from typing import Any

from eyas.recipe import ReportStage
from eyas.report.compare import compare_all
from eyas.report.evidence import Evidence
from eyas.report.page import render_page
from eyas.report.summary import summarise
from eyas.report.verdict import judge
from eyas.storage.artifacts import atomic_path, write_json
from eyas.storage.context import StageContext


def run(stage: ReportStage, context: StageContext) -> dict[str, Any]:
    """Write `report.html` and `summary.json`; the verdict is returned for the manifest.

    Raises: CorruptArtifact, if a shard of predictions does not match its checksum.
    """
    context.progress.start(2, unit="files")
    evidence = Evidence(context.recipe, context.inputs)
    comparisons = compare_all(evidence)
    verdict = judge(evidence, comparisons)
    write_json(context.directory / "summary.json", summarise(evidence, comparisons, verdict))
    context.progress.advance()
    with atomic_path(context.directory / "report.html") as draft:
        draft.write_text(render_page(stage, evidence, comparisons, verdict), encoding="utf-8")
    context.progress.advance()
    return {"verdict": verdict.headline}
