"""Check, before any work, that a recipe's models, thinking format and data fit together, and its formats can be had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from eyas.export.decoder import require_static
from eyas.export.formats import require_available, require_room
from eyas.export.onnx import slots_of
from eyas.graph import Node
from eyas.recipe import (
    FIXED_SHAPES,
    NOT_RUN_HERE,
    EvaluateStage,
    ExportStage,
    ModelSpec,
    PrepareStage,
    Recipe,
    RolloutStage,
    SftStage,
    descent,
    expand,
)
from eyas.records import MODES, Example, Mode, SequenceRecord
from eyas.storage.artifacts import damaged_files
from eyas.storage.models import describe, load_outline
from eyas.storage.preflight import PairReport, check_pair
from eyas.storage.shards import read_records
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


def require_graphs(recipe: Recipe, nodes: Sequence[Node], paths: Mapping[str, Path]) -> None:
    """Export stages that have yet to run can trace their models' static graphs, with room for the longest answer.

    `paths` as of `described`. How long prompts are is known of finished evaluations alone.

    Raises: ModelError, for a model that has no such graph; ExportError, for too small a context.
    """
    by_name = {node.name: node for node in nodes}
    for node in nodes:
        stage = node.stage
        if not isinstance(stage, ExportStage) or stage.formats[0] not in FIXED_SHAPES or node.finished() is not None:
            continue
        config = load_outline(paths[descent(recipe, stage.model or "student")]).config
        require_static(config)
        slots = slots_of(config, stage.context_length)
        evaluation = by_name[stage.evaluation]
        asked = stage.examples != 0 and stage.formats[0] not in NOT_RUN_HERE
        if asked and isinstance(evaluation.stage, EvaluateStage):
            needed = longest_prompt(evaluation) + evaluation.stage.sampling.max_completion_tokens
            require_room(slots, needed=min(int(config.max_position_embeddings), needed), name=node.name)


def longest_prompt(evaluation: Node) -> int:
    """Tokens of the longest prompt that a finished evaluation asked; 1, where it has asked none or is to be redone."""
    made = evaluation.finished()
    if made is None or damaged_files(made):
        return 1
    records = read_records(made.path / "predictions", kind=SequenceRecord)
    return max((len(record.prompt_ids) for record in records), default=1)


def check_recipe(
    recipe: Recipe, nodes: Sequence[Node], scratch: Path, *, needed: Sequence[Node] | None = None
) -> tuple[dict[str, Path], PairReport]:
    """All that can be known before any work: where configs and tokenizers lie, and what was found of the pair.

    `needed` are the nodes to be made, by default all.

    Raises: PairMismatch, ModelError, DataError, ExportError, if the run would not get past these checks.
    """
    paths = described(nodes, scratch)
    report = check_recipe_pair(recipe, paths)
    require_graphs(recipe, nodes if needed is None else needed, paths)
    return paths, report


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
