"""What a recipe amounts to: nodes with fingerprints, and which of them are already done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eyas import grading
from eyas.errors import CorruptArtifact, RecipeError
from eyas.recipe import (
    ExportStage,
    ModelSpec,
    PrepareStage,
    Recipe,
    ReportStage,
    SftStage,
    Stage,
    calibration_source,
    expand,
    training_rounds,
)
from eyas.runtimes.llama_c import own_identity
from eyas.storage.artifacts import MANIFEST, Artifact, open_artifact
from eyas.storage.models import identity
from eyas.tasks import content_identities
from eyas.tasks.calibration import calibration_identity
from eyas.tasks.exclusion import exclusion_hash

MODEL_VERSION = 2
"""Version of how a model spec becomes weights: raise it when the same spec and origin give others."""
UNHASHED_VERSIONS = 2
"""Fingerprints hold no version up to this one, so that models made before it was hashed keep theirs."""


@dataclass(frozen=True)
class Node:
    """One artifact that a run needs, made by a stage or, for `student` and `teacher`, from a model spec."""

    name: str
    stage: Stage | ModelSpec
    fingerprint: str
    directory: Path
    inputs: Mapping[str, str]
    """Field -> name of the node it reads."""
    rounds: tuple[str, ...] = ()
    """For a token or time match: names of the nodes to match."""

    @property
    def type(self) -> str:
        """The stage's type, `model` for a model spec."""
        return "model" if isinstance(self.stage, ModelSpec) else self.stage.type

    @property
    def version(self) -> int:
        """Version of the code that makes it, part of the fingerprint."""
        return MODEL_VERSION if isinstance(self.stage, ModelSpec) else self.stage.version

    @property
    def config(self) -> dict[str, Any]:
        """What of the stage's config decides its result: without its name and without the names it refers to."""
        if isinstance(self.stage, ModelSpec):
            return self.stage.model_dump(by_alias=True, mode="json")
        return _deciding_config(self.stage)

    def finished(self) -> Artifact | None:
        """The finished artifact, None if it has yet to be made (or its manifest, or a linked model, is gone)."""
        if not (self.directory / MANIFEST).is_file():
            return None
        if self.type == "model" and not (self.directory / "model" / "config.json").is_file():
            return None
        try:
            return open_artifact(self.directory)
        except CorruptArtifact:
            return None


def _deciding_config(stage: Stage) -> dict[str, Any]:
    config = stage.model_dump(by_alias=True, mode="json")
    for field in (
        "name",
        "model",
        "data",
        "sequences",
        "scores",
        "divergence_scores",
        "evaluation",
        "exports",
        "files",
    ):
        config.pop(field, None)
    if stage.type == "evaluate":
        config["models"] = sorted(config["models"])
    if stage.type == "distill":
        for field in ("rounds", "rollout", "score", "prefix"):
            config.pop(field)
    if stage.type == "synthesize":
        for field in ("prompts", "count", "modes", "samples_per_prompt", "sampling"):
            config.pop(field)
    if stage.type in ("sft", "distill"):
        for field in ("rollouts", "difficulty", "pseudo_answers"):
            config["curriculum"].pop(field)
    if isinstance(stage, ExportStage):  # it judges what is made, and changes nothing of it
        config.pop("max_loss")
    for field in ("match_tokens", "match_seconds"):
        if config.get(field) is not None:
            config[field] = True
    if isinstance(stage, PrepareStage):
        sources = [stage.source, stage.off_task, *(held_out.source for held_out in stage.held_out_elsewhere)]
        config["content"] = [made for source in sources if source for made in content_identities(source)]
        if stage.exclude is not None:
            config["exclude"] = exclusion_hash(stage.exclude)
        config = _without_paths(config)
    return config


def _without_paths(value: Any) -> Any:
    """A data file is what it holds, wherever it lies; whether there is one to test on stays."""
    if isinstance(value, list):
        return [_without_paths(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("type") == "file":
        return {**value, "path": True, "test_path": value["test_path"] is not None}
    return {key: _without_paths(item) for key, item in value.items()}


def build_graph(recipe: Recipe, *, workspace: Path) -> list[Node]:
    """All nodes in the order they run, models first. Nothing is read but model identities and data files.

    A fingerprint hashes the stage's type, version and deciding config, the recipe's seed and thinking
    format, the graders' version, and the fingerprints of everything it reads; never `execution`. That of a GGUF export,
    and so of its bench, the user's own llama.cpp too, where there is one: it checks, answers and is measured.
    """
    stages = expand(recipe)
    llama = own_identity() if any(_is_gguf(stage) for stage in stages) else None
    nodes: dict[str, Node] = {}
    specs = {"student": recipe.student} | ({"teacher": recipe.teacher} if recipe.teacher is not None else {})
    for name, spec in specs.items():
        seed = recipe.seed if spec.config is not None else None
        shape = spec.model_dump(by_alias=True, mode="json", exclude={"from_", "revision", "tokenizer"})
        content = {"identity": identity(spec), "spec": shape, "seed": seed}
        if spec.prune is not None:
            source = calibration_source(spec.prune, stages)
            shape["prune"].pop("data")
            content["calibration"] = _without_paths(calibration_identity(source, thinking=recipe.thinking))
        if MODEL_VERSION > UNHASHED_VERSIONS:
            content["version"] = MODEL_VERSION
        nodes[name] = _node(name, spec, content, {}, workspace=workspace)
    for stage in stages:
        inputs = {field: name for field, (name, _) in stage.references().items()}
        inputs |= {
            field.replace("scores", "sequences"): nodes[name].inputs["sequences"]
            for field, name in inputs.items()
            if field.startswith("scores")
        }
        if isinstance(stage, ReportStage):
            inputs = {name: name for name in nodes}
        matched = (stage.match_tokens or stage.match_seconds) if isinstance(stage, SftStage) else None
        rounds = tuple(made.name for made in training_rounds(stages, matched, start=inputs["model"])) if matched else ()
        if matched and not rounds:
            raise RecipeError(
                f"stage {stage.name!r}: {matched!r} is no stage that trains, so there is nothing to match."
            )
        content = {
            "type": stage.type,
            "version": stage.version,
            "config": _deciding_config(stage),
            "inputs": {field: nodes[name].fingerprint for field, name in inputs.items()},
            "seed": recipe.seed,
            "thinking": recipe.thinking.model_dump(mode="json"),
            "grading": grading.VERSION,
        }
        if isinstance(stage, ReportStage) or (isinstance(stage, ExportStage) and "safetensors" in stage.formats):
            content["recipe"] = recipe.model_dump(by_alias=True, mode="json", exclude={"execution", "ablation"})
        if llama is not None and _is_gguf(stage):
            content["llama"] = llama
        nodes[stage.name] = _node(stage.name, stage, content, inputs, rounds=rounds, workspace=workspace)
    return list(nodes.values())


def _is_gguf(stage: Stage) -> bool:
    return isinstance(stage, ExportStage) and stage.formats[0].startswith("gguf")


def _node(
    name: str,
    stage: Stage | ModelSpec,
    content: Mapping[str, Any],
    inputs: Mapping[str, str],
    *,
    workspace: Path,
    rounds: tuple[str, ...] = (),
) -> Node:
    fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    kind = "model" if isinstance(stage, ModelSpec) else stage.type
    directory = workspace / "artifacts" / f"{kind}-{fingerprint}"
    return Node(name, stage, fingerprint, directory, dict(inputs), rounds)
