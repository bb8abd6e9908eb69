"""`summary.json`: the contract for scripts (DESIGN.md, "On disk")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eyas.recipe import ScoreStage
from eyas.report.compare import Comparison
from eyas.report.deployment import summary_rows
from eyas.report.evidence import Evidence
from eyas.report.verdict import Verdict


def summarise(evidence: Evidence, comparisons: Sequence[Comparison], verdict: Verdict) -> dict[str, Any]:
    """The contract's keys, then name, seed, verdict, regime and hardware."""
    hardware = evidence.hardware()
    return {
        "models": {role: _model(evidence.facts(role)) for role in evidence.roles},
        "comparisons": [comparison.as_dict() for comparison in comparisons],
        "cost": {
            name: {"seconds": round(evidence.seconds(name), 3), "tokens": evidence.tokens(name)}
            for name in evidence.stages
        },
        "cache": cache_statistics(evidence),
        "deployment": summary_rows(evidence),
        "name": evidence.recipe.name,
        "seed": evidence.recipe.seed,
        "verdict": verdict.headline,
        "regime": data_counts(evidence),
        "hardware": dict(hardware[0]) if hardware else {},
    }


def _model(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "accuracy": {mode: dict(found) for mode, found in facts["accuracy"].items()},
        "pass_at_k": dict(facts["pass_at_k"]),
        "settings": dict(facts["settings"]),
        "parameters": facts["parameters"],
        "bytes": facts["bytes"],
        "latency": {"bulk": dict(facts.get("bulk") or {})},
        "off_task": dict(facts.get("off_task") or {}),
    }


def training_scores(evidence: Evidence) -> list[str]:
    """Score stages that something was trained on, not those that only measure divergence."""
    measured = evidence.divergence_rollouts()
    return [
        name
        for name, stage in evidence.stages.items()
        if isinstance(stage, ScoreStage) and stage.sequences not in measured
    ]


def cache_statistics(evidence: Evidence) -> dict[str, float | None]:
    """Bytes per completion token and mean captured mass over all teacher scores trained on; None where none tells."""
    facts = [evidence.artifacts[name].facts for name in training_scores(evidence)]

    def mean(key: str) -> float | None:
        known = [item for item in facts if item[key] is not None]
        tokens = sum(item["completion_tokens"] for item in known)
        return sum(item[key] * item["completion_tokens"] for item in known) / tokens if tokens else None

    return {key: mean(key) for key in ("bytes_per_token", "mean_captured_mass")}


def data_counts(evidence: Evidence) -> dict[str, int]:
    """Examples per split, over all prepare stages."""
    total: dict[str, int] = {}
    for artifact in evidence.artifacts.values():
        for split, count in artifact.facts.get("counts", {}).items() if artifact.stage == "prepare" else ():
            total[split] = total.get(split, 0) + count
    return total
