"""What graded answers say: accuracy, its breakdown by a class of examples, pass@k. Pure functions of sequences."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from eyas.proportions import pass_at_k, share_of_examples
from eyas.records import MODES, Example, Mode, SequenceRecord

Numbers = dict[str, float]
"""A share as in `summary.json` (value, low, high, n), with what stands beside it."""


def by_mode(sequences: Sequence[SequenceRecord]) -> dict[Mode, list[SequenceRecord]]:
    """The answers of each mode that has any."""
    parts = {mode: [item for item in sequences if item.mode == mode] for mode in MODES}
    return {mode: part for mode, part in parts.items() if part}


def accuracy(sequences: Sequence[SequenceRecord]) -> Numbers:
    """Share of right answers, n examples, its 95 % interval, mean completion tokens, share cut at the length limit.

    Several samples of one example count as one example with their mean: see `eyas.proportions.share_of_examples`.

    Raises: ValueError, if there are no answers.
    """
    rates = [sum(flags) / len(flags) for flags in _outcomes(sequences)]
    share = share_of_examples(rates, answers=len(sequences))
    lengths = [len(item.completion_ids) for item in sequences]
    return {
        **share.as_dict(),
        "mean_tokens": sum(lengths) / len(lengths),
        "truncated": sum(item.finish_reason == "length" for item in sequences) / len(sequences),
    }


def breakdown(sequences: Sequence[SequenceRecord], classes: Mapping[str, str]) -> dict[Mode, dict[str, Numbers]]:
    """Accuracy by mode and class (example id -> class, empty for none), classes in alphabetical order."""
    found: dict[Mode, dict[str, list[SequenceRecord]]] = defaultdict(lambda: defaultdict(list))
    for item in sequences:
        if classes[item.example_id]:
            found[item.mode][classes[item.example_id]].append(item)
    return {mode: {name: accuracy(part) for name, part in sorted(parts.items())} for mode, parts in found.items()}


def pass_at(sequences: Sequence[SequenceRecord], ks: Sequence[int]) -> dict[str, Numbers]:
    """Unbiased pass@k for every k, with its interval over the examples.

    Raises: ValueError, if there are no answers, or an example has fewer than k.
    """
    outcomes = _outcomes(sequences)
    return {
        str(k): share_of_examples(
            [pass_at_k(len(flags), sum(flags), k) for flags in outcomes], answers=len(sequences)
        ).as_dict()
        for k in ks
    }


def measured(sequences: Sequence[SequenceRecord], examples: Sequence[Example], *, ks: Sequence[int]) -> dict[str, Any]:
    """Facts of an evaluation: `accuracy`, `pass_at_k`, `by_level`, and `by_source` where there are several sources.

    Raises: ValueError, if an example has fewer than k answers.
    """
    parts = by_mode(sequences)
    origins = {example.id: example.origin for example in examples}
    return {
        "accuracy": {mode: accuracy(part) for mode, part in parts.items()},
        "pass_at_k": {mode: pass_at(part, ks) for mode, part in parts.items()},
        "by_level": breakdown(sequences, {example.id: example.level for example in examples}),
        "by_source": breakdown(sequences, origins) if len(set(origins.values()) - {""}) > 1 else {},
    }


def too_long(sequences: Sequence[SequenceRecord]) -> int:
    """Examples with a prompt that left no room for a completion in the model's context; their answers are wrong."""
    return len({item.example_id for item in sequences if not item.completion_ids})


def _outcomes(sequences: Sequence[SequenceRecord]) -> list[list[bool]]:
    """Per example: whether each of its answers is right; an answer without a grade is not."""
    found: dict[str, list[bool]] = defaultdict(list)
    for item in sequences:
        found[item.example_id].append(item.grade is not None and item.grade >= 1.0)
    return list(found.values())
