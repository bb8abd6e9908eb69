"""The small print of the accuracies: by which grader, on which prompts, sampled how."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from eyas.report.evidence import Evidence
from eyas.report.words import count, label

DIGITS = 16
"""Hex digits of a hash on the page; all 64 are in the manifest and in `summary.json`."""


def provenance(evidence: Evidence) -> list[str]:
    """One sentence per setting; where models differ in it, each value with its models."""
    rows = {role: dict(_rows(evidence.facts(role)["settings"])) for role in evidence.roles}
    sentences = []
    for name in dict.fromkeys(name for found in rows.values() for name in found):
        values: dict[str, list[str]] = {}
        for role, found in rows.items():
            values.setdefault(found.get(name, "none"), []).append(label(role))
        if len(values) == 1:
            sentences.append(f"{name}: {next(iter(values))}.")
        else:
            told = "; ".join(f"{value} ({', '.join(roles)})" for value, roles in values.items())
            sentences.append(f"{name}, not the same for all models: {told}.")
    cuts = {name: _pruned(evidence, name) for name in ("student", "teacher")}
    return sentences + [_pruning(name, cut) for name, cut in cuts.items() if cut]


def _pruned(evidence: Evidence, name: str) -> Mapping[str, Any]:
    """What was measured to choose the layers of the student or the teacher; empty where nothing was."""
    artifact = evidence.artifacts.get(name)
    found: Mapping[str, Any] = {} if artifact is None else artifact.facts.get("pruning", {})
    return found


def _pruning(name: str, found: Mapping[str, Any]) -> str:
    removed = ", ".join(str(layer) for layer in found["removed"])
    total = len(found["kept"]) + len(found["removed"])
    return (
        f"Layers taken out of the {name}, of 0 to {total - 1}: {removed or 'none'}, chosen by "
        f"{found['by'].replace('_', ' ')} on {count(found['sequences'])} examples ({count(found['tokens'])} tokens)."
    )


def _rows(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "Graders", f"{', '.join(settings['graders'])}, version {settings['grading_version']}"
    yield "Sampling", describe_sampling(settings["sampling"], samples=settings["samples_per_prompt"])
    for mode, digest in settings["prompts_sha256"].items():
        yield f"SHA-256 of the {mode} prompts as rendered", digest[:DIGITS]
    yield "SHA-256 of the chat template", settings["template_sha256"][:DIGITS]
    thinking = settings["thinking"]
    yield "Thinking", f"between {thinking['open']!r} and {thinking['close']!r}"


def describe_sampling(sampling: Mapping[str, Any], *, samples: int) -> str:
    """How answers were drawn, in words."""
    limit = f"at most {count(sampling['max_completion_tokens'])} tokens"
    if not sampling["temperature"]:
        return f"greedy, {limit}"
    kept = [
        f"{name.replace('_', '-')} {sampling[name]:g}"
        for name, neutral in (("temperature", None), ("top_p", 1), ("min_p", 0))
        if sampling[name] != neutral
    ]
    return ", ".join([*kept, limit, f"{count(samples)} answer{'s' * (samples > 1)} an example"])
