"""Check, before any work, that a recipe's models, thinking format and data fit together, and its formats can be had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from transformers import AutoConfig

from eyas.export.decoder import require_static
from eyas.export.formats import ONNX, require_available, require_room
from eyas.export.onnx import CONTEXT
from eyas.graph import Node
from eyas.recipe import (
    NOT_RUN_HERE,
    EvaluateStage,
    ExportStage,
    ModelSpec,
    PrepareStage,
    Recipe,
    RolloutStage,
    SftStage,
    expand,
)
from eyas.records import MODES, Example, Mode
from eyas.storage.artifacts import damaged_files
from eyas.storage.models import describe
from eyas.storage.preflight import PairReport, check_pair
from eyas.tasks import first_examples

SAMPLE = 16
"""Examples that are rendered and tokenised as a sample."""


def described(nodes: Sequence[Node], scratch: Path) -> dict[str, Path]:
    """`student` and `teacher` -> a directory with config and tokenizer: the whole artifact's, else one in `scratch`.

    Raises: ModelError, if one cannot be had; no weights are downloaded to find that out.
    """
    paths = {}
    for node in nodes:
        if isinstance(node.stage, ModelSpec):
            made = node.finished()
            whole = made is not None and not damaged_files(made)
            if not whole:
                describe(node.stage, scratch / node.name)
            paths[node.name] = (node.directory if whole else scratch / node.name) / "model"
    return paths


def check_recipe_pair(recipe: Recipe, paths: Mapping[str, Path]) -> PairReport:
    """Compare the pair on a sample of the recipe's own data; without a teacher the student is checked against itself.

    Raises: PairMismatch, ModelError, DataError.
    """
    return check_pair(
        paths["student"],
        paths.get("teacher", paths["student"]),
        thinking=recipe.thinking,
        examples=sample_examples(recipe),
        modes=recipe_modes(recipe),
        longest_completion=longest_completion(recipe),
    )


def require_formats(nodes: Sequence[Node]) -> None:
    """Formats of the export stages that have yet to run can be written and run here.

    Raises: MissingExtra; ExportError, for one that needs a program that is not there.
    """
    for node in nodes:
        if isinstance(node.stage, ExportStage) and node.finished() is None:
            for format_ in node.stage.formats:
                require_available(format_)


def require_graphs(nodes: Sequence[Node], paths: Mapping[str, Path], *, prompt_tokens: int) -> None:
    """Export stages that have yet to run can trace their models' static graphs, with room for the longest answer.

    `paths` as of `described`; `prompt_tokens` of the longest prompt of a sample: others are seen once they are there.

    Raises: ModelError, for a model that has no such graph; ExportError, for too small a context.
    """
    evaluations = {node.name: node.stage for node in nodes if isinstance(node.stage, EvaluateStage)}
    for node in nodes:
        stage = node.stage
        if not isinstance(stage, ExportStage) or stage.formats[0] not in ONNX or node.finished() is not None:
            continue
        config = AutoConfig.from_pretrained(paths.get(stage.model or "", paths["student"]), trust_remote_code=False)
        require_static(config)
        if stage.formats[0] not in NOT_RUN_HERE:
            own, answer = config.max_position_embeddings, evaluations[stage.evaluation].sampling.max_completion_tokens
            slots = min(stage.context_length or CONTEXT, own)
            require_room(slots, needed=min(own, prompt_tokens + answer), name=node.name)


def sample_examples(recipe: Recipe) -> list[Example]:
    """A few training examples of the recipe's first prepare stage."""
    for stage in recipe.stages:
        if isinstance(stage, PrepareStage):
            return list(first_examples(stage.source, count=SAMPLE, seed=recipe.seed))
    return []


def recipe_modes(recipe: Recipe) -> tuple[Mode, ...]:
    """The modes that any stage trains, samples or evaluates."""
    used: set[Mode] = set()
    for stage in expand(recipe):
        modes = getattr(stage, "modes", None)
        used |= set(modes or ())
    return tuple(mode for mode in MODES if mode in used)


def longest_completion(recipe: Recipe) -> int:
    """The largest `max_completion_tokens` of the recipe's sampling stages; 1 if nothing is sampled."""
    lengths = [
        stage.sampling.max_completion_tokens
        for stage in expand(recipe)
        if isinstance(stage, RolloutStage | EvaluateStage) or (isinstance(stage, SftStage) and stage.select == "best")
    ]
    return max(lengths, default=1)
