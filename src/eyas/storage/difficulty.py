"""The curriculum of a training stage: pass rates from the rollouts it names, and what they do to its items."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from eyas.curriculum import (
    Key,
    PassRates,
    frontier_weights,
    majority_answers,
    mean_by_key,
    outside_window,
    pass_rates,
    training_order,
)
from eyas.errors import DataError
from eyas.recipe import CurriculumSpec
from eyas.records import MODES, Mode, SequenceRecord
from eyas.storage.artifacts import Artifact
from eyas.storage.batches import TrainingItem
from eyas.storage.context import StageContext
from eyas.storage.shards import read_records


def measured_rates(context: StageContext, *, curriculum: CurriculumSpec, fallback: str | None) -> PassRates:
    """Pass rates from the curriculum's rollouts (input `pass_rates`, else `fallback`); empty without either."""
    name = "pass_rates" if "pass_rates" in context.inputs else fallback
    if name is None:
        return PassRates(rates={}, shares={}, graded=0, pseudo=0, unknown=0)
    pseudo = {}
    if "pseudo_answers" in context.inputs:
        pseudo = majority_answers(_sequences(context.inputs["pseudo_answers"]))
    found = _sequences(context.inputs[name])
    return pass_rates(found, pseudo_answers=pseudo, smoothing=curriculum.smoothing)


def _sequences(artifact: Artifact) -> list[SequenceRecord]:
    return list(read_records(artifact.path / "sequences", kind=SequenceRecord))


def keys_of(items: Sequence[TrainingItem]) -> list[Key]:
    """What a pass rate belongs to, for each item."""
    return [(item.sequence.example_id, item.sequence.mode) for item in items]


def eases(items: Sequence[TrainingItem], *, curriculum: CurriculumSpec, rates: PassRates) -> Mapping[Key, float]:
    """How easy each example is by the curriculum's signal; only the order of the numbers means anything.

    Of an example's several sequences the mean counts, of `teacher_nll` for which every item must have scores.
    """
    if curriculum.signal == "length":
        return mean_by_key(keys_of(items), [-float(len(item.sequence.completion_ids)) for item in items])
    if curriculum.signal == "teacher_nll":
        logprobs = [float(item.scores.token_logprobs.mean()) for item in items if item.scores is not None]
        return mean_by_key(keys_of(items), logprobs)
    return rates.rates


def decided_order(
    items: Sequence[TrainingItem],
    *,
    curriculum: CurriculumSpec,
    rates: PassRates,
    modes: Mapping[Mode, float] | None,
    seed: int,
    steps: int,
    batch_size: int,
) -> list[int]:
    """Indices of the items for all steps, see `training_order`.

    Raises: DataError, if no item is in any of the modes that have a share.
    """
    order = training_order(
        keys_of(items),
        spec=curriculum,
        ease=eases(items, curriculum=curriculum, rates=rates),
        modes=modes,
        seed=seed,
        steps=steps,
        batch_size=batch_size,
    )
    if not order:
        found = ", ".join(sorted({item.sequence.mode for item in items}))
        raise DataError(
            f"nothing to train on: `modes` asks for {', '.join(modes or {})}, but what selection and window leave is "
            f"all {found}. Change `modes`, or loosen `selection` or `curriculum.window`."
        )
    return order


def rate_facts(items: Sequence[TrainingItem], *, rates: PassRates) -> dict[str, Any]:
    """How the pass rates are known and spread, over the examples of the rollouts; and what became of the trained items.

    `distribution` is mode -> share of the rollouts that are right, as counted -> examples; `weights` the least and
    the largest w_x of the items, None where all are 1.
    """
    without = set(keys_of(items)) - rates.rates.keys()
    distribution: dict[str, Counter[str]] = {mode: Counter() for mode in MODES}
    for (_, mode), share in sorted(rates.shares.items(), key=lambda item: item[1]):
        distribution[mode][f"{share:.3g}"] += 1
    weights = [item.weight for item in items]
    return {
        "graded": rates.graded,
        "pseudo": rates.pseudo,
        "unknown": rates.unknown,
        "trained_without": len(without),
        "distribution": {mode: dict(counts) for mode, counts in distribution.items() if counts},
        "weights": [min(weights), max(weights)] if set(weights) != {1.0} else None,
    }


def windowed(
    items: Sequence[TrainingItem], *, curriculum: CurriculumSpec, rates: PassRates, stage: str
) -> tuple[list[TrainingItem], dict[str, int]]:
    """(items whose pass rate is in the curriculum's window, reason -> how many were left out).

    Raises: DataError, if none is left.
    """
    if curriculum.window is None:
        return list(items), {}
    reasons = outside_window(keys_of(items), rates.shares, window=curriculum.window)
    dropped = Counter(reason for reason in reasons if reason is not None)
    kept = [item for item, reason in zip(items, reasons, strict=True) if reason is None]
    if not kept:
        counts = ", ".join(f"{reason} {number}" for reason, number in dropped.most_common())
        raise DataError(
            f"stage {stage!r}: `curriculum.window` leaves none of {len(items)} sequences to train on (dropped: "
            f"{counts}). Widen it (low: null, high: 1), or measure difficulty with another model."
        )
    return kept, dict(dropped)


def weighted(items: Sequence[TrainingItem], *, curriculum: CurriculumSpec, rates: PassRates) -> list[TrainingItem]:
    """The items with the curriculum's w_x."""
    if curriculum.weight == "uniform":
        return list(items)
    weights = frontier_weights(keys_of(items), rates.rates)
    return [replace(item, weight=weight) for item, weight in zip(items, weights, strict=True)]
