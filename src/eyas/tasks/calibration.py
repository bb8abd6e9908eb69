"""Examples that a model's layers are measured on, and what a fingerprint says of them."""

from __future__ import annotations

from typing import Any

from eyas.recipe import DataSource, PruneSpec, ThinkingSpec
from eyas.records import Example
from eyas.storage.pruning import VERSION
from eyas.tasks import content_identities, load_examples

CALIBRATION_SEED = 0
"""Calibration does not depend on the recipe's seed: runs over seeds share the pruned model."""


def calibration_examples(prune: PruneSpec, source: DataSource) -> list[Example]:
    """The training examples of the source that layers are measured on, held in memory.

    Raises: as `load_examples`.
    """
    return list(load_examples(source, split="train", count=prune.examples, seed=CALIBRATION_SEED))


def calibration_identity(source: DataSource, *, thinking: ThinkingSpec) -> dict[str, Any]:
    """What decides a measurement beside the model and its `PruneSpec`: the source, its content, the thinking format.

    Raises: as `content_identities`.
    """
    return {
        "version": VERSION,
        "source": source.model_dump(by_alias=True, mode="json"),
        "content": content_identities(source),
        "thinking": thinking.model_dump(mode="json"),
    }
