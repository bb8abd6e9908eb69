"""The page: everything computed, then one template; model output is escaped, nothing is loaded from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from eyas.recipe import ReportStage
from eyas.report import curriculum, deployment, process, tables, words
from eyas.report.compare import Comparison
from eyas.report.evidence import Evidence
from eyas.report.plots import OTHER, PALETTE
from eyas.report.provenance import provenance
from eyas.report.transcripts import transcripts
from eyas.report.verdict import Verdict


def render_page(
    stage: ReportStage, evidence: Evidence, comparisons: Sequence[Comparison], verdict: Verdict
) -> str:  # fmt: skip
    """`report.html` as text."""
    recipe = evidence.recipe
    files = deployment.deployed(evidence)
    content: dict[str, Any] = {
        "title": stage.title or recipe.name,
        "recipe": recipe,
        "recipe_yaml": yaml.safe_dump(
            recipe.model_dump(by_alias=True, mode="json"), sort_keys=False, allow_unicode=True, width=100
        ),
        "verdict": verdict,
        "modes": evidence.modes,
        "roles": evidence.roles,
        "regime": process.regime(evidence),
        "headline": tables.headline(evidence),
        "sample_sizes": tables.sample_sizes(evidence),
        "accuracy_charts": tables.accuracy_charts(evidence),
        "deployed": files,
        "benches": deployment.bench_facts(evidence),
        "beside_teacher": deployment.against_teacher(evidence, files),
        "beside_finest": deployment.against_finest(evidence, files),
        "deployment_charts": deployment.scatters(evidence, files),
        "pairs": tables.pairs(comparisons),
        "scale": tables.widest(comparisons),
        "budgets": tables.budgets(evidence, comparisons),
        "pass_at_k": tables.pass_at_k(evidence),
        "provenance": provenance(evidence),
        "levels": tables.breakdown(evidence, "by_level"),
        "sources": tables.breakdown(evidence, "by_source"),
        "forgetting": tables.forgetting(evidence),
        "divergence_charts": tables.divergence_charts(evidence),
        "divergence_note": process.divergence_note(evidence),
        "training_charts": process.training_charts(evidence),
        "selections": process.selections(evidence),
        "curricula": curriculum.curricula(evidence),
        "pass_rate_charts": curriculum.pass_rate_charts(evidence),
        "syntheses": curriculum.syntheses(evidence),
        "staleness": process.staleness(evidence),
        "rollouts": process.rollouts(evidence),
        "cache": process.cache(evidence),
        "costs": process.costs(evidence),
        "transcripts": transcripts(evidence, limit=stage.transcripts),
        "drops": process.drops(evidence),
        "repeats": process.repeats(evidence),
        "hardware": evidence.hardware(),
    }
    return environment().get_template("template.html").render(content)


def environment() -> Environment:
    """Of the pages' templates: escaping, with numbers and roles written as `words` does."""
    environment = Environment(
        loader=PackageLoader("eyas", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for function in (
        words.label, words.percent, words.points, words.count, words.decimal, words.size, words.duration, words.p_value,
        words.less, words.less_span, words.mebibytes, words.milliseconds, words.nats, colour, position,
    ):  # fmt: skip
        environment.filters[function.__name__] = function
    return environment


def colour(role: str) -> str:
    """A role's colour as in the charts."""
    shade = PALETTE.get(role, OTHER)
    return f"var(--c{shade[1:]}, {shade})"


def position(difference: float, scale: float) -> str:
    """Where a difference lies between -scale and +scale, in percent of the width."""
    return f"{50 + 50 * max(-1.0, min(1.0, difference / scale)):.2f}%"
