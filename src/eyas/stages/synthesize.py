"""Synthesize: the teacher's answers become labels, verified by the grader or, without one, by agreement."""

from __future__ import annotations

from typing import Any

from eyas.errors import DataError
from eyas.recipe import SynthesizeStage
from eyas.records import SequenceRecord
from eyas.storage.context import StageContext
from eyas.storage.shards import read_records, write_shard
from eyas.storage.statistics import rollout_statistics
from eyas.synthesis import synthesise

SHARD = 2048
"""Sequences per shard, as in a rollout."""


def run(stage: SynthesizeStage, context: StageContext) -> dict[str, Any]:
    """Write `sequences/`: at most one of the rollout's completions per prompt and mode, token ids untouched.

    Raises: DataError, if no prompt is left with a label.
    """
    found = list(read_records(context.inputs["sequences"].path / "sequences", kind=SequenceRecord))
    context.progress.start(len(found), unit="sequences")
    made = synthesise(found, min_agreement=stage.min_agreement)
    if not made.kept:
        why = ", ".join(f"{number} {reason}" for reason, number in made.dropped.items())
        raise DataError(
            f"stage {stage.name!r}: none of the {sum(made.dropped.values())} prompts has a completion to learn from "
            f"({why}). Raise `samples_per_prompt`, lower `min_agreement`, or take a teacher that can do the task."
        )
    kept = [found[index] for index in made.kept]
    for index, start in enumerate(range(0, len(kept), SHARD)):
        write_shard(context.directory / "sequences", index, kept[start : start + SHARD], kind=SequenceRecord)
    context.progress.advance(len(found))
    return rollout_statistics(kept) | {
        "sampled": len(found),
        "verified": made.verified,
        "agreed": made.agreed,
        "dropped": dict(made.dropped),
        "mean_agreement": sum(made.agreements) / len(made.agreements) if made.agreements else None,
        "mean_completion_tokens_sampled": sum(len(item.completion_ids) for item in found) / len(found),
    }
