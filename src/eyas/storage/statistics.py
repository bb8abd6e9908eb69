"""What a stage says of its sequences and scores in the manifest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from eyas.records import MODES, SequenceRecord, TeacherScores


def rollout_statistics(sequences: Iterable[SequenceRecord]) -> dict[str, Any]:
    """Counts, tokens, truncation and pass rate, over all and by mode."""
    found = list(sequences)
    facts: dict[str, Any] = {
        "sequences": len(found),
        "tokens": sum(len(item.prompt_ids) + len(item.completion_ids) for item in found),
        "completion_tokens": sum(len(item.completion_ids) for item in found),
        "truncated": _share([item.finish_reason == "length" for item in found]) or 0.0,
    }
    for mode in MODES:
        part = [item for item in found if item.mode == mode]
        if part:
            facts[mode] = {
                "sequences": len(part),
                "mean_completion_tokens": sum(len(item.completion_ids) for item in part) / len(part),
                "truncated": _share([item.finish_reason == "length" for item in part]),
                "graded": sum(item.grade is not None for item in part),
                "pass_rate": _share([item.grade >= 1.0 for item in part if item.grade is not None]),
            }
    return facts


def _share(flags: Sequence[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None


def score_statistics(scores: Iterable[TeacherScores], *, size_bytes: int, tokens: int) -> dict[str, Any]:
    """Captured mass, entries and bytes per completion token."""
    masses: list[float] = []
    entries = 0
    for item in scores:
        masses += item.captured_mass
        entries += sum(map(len, item.ids))
    count = len(masses)
    return {
        "tokens": tokens,
        "completion_tokens": count,
        "bytes": size_bytes,
        "bytes_per_token": size_bytes / count,
        "mean_captured_mass": float(np.mean(masses)),
        "p01_captured_mass": float(np.quantile(masses, 0.01)),
        "entries_per_token": entries / count,
    }
