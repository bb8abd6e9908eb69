"""What a stage says of its sequences and scores in the manifest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from eyas.recipe import Target
from eyas.records import MODES, SequenceRecord
from eyas.storage.scores import TeacherScores


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


def score_statistics(
    scores: Iterable[TeacherScores], *, column_bytes: Mapping[str, int], tokens: int, target: Target
) -> dict[str, Any]:
    """Captured mass as stored (None for drawn targets), entries and bytes per completion token."""
    found = list(scores)
    tails = np.concatenate([item.tail for item in found]).astype(np.float64)
    count = len(tails)
    captured = -np.expm1(tails) if target == "top_k" else None  # nothing tells the mass of drawn ids
    size = sum(column_bytes.values())
    return {
        "tokens": tokens,
        "completion_tokens": count,
        "bytes": size,
        "bytes_per_token": size / count,
        "bytes_per_token_by_column": {name: value / count for name, value in column_bytes.items()},
        "mean_captured_mass": None if captured is None else float(captured.mean()),
        "p01_captured_mass": None if captured is None else float(np.quantile(captured, 0.01)),
        "entries_per_token": sum(len(item.ids) for item in found) / count,
    }
