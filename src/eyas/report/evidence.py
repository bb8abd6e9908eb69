"""What a run's artifacts say, gathered once: evaluated roles, their predictions, and what each model cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from eyas.recipe import DistillStage, EvaluateStage, Recipe, ScoreStage, SftStage, Stage, expand, lineage
from eyas.records import MODES, Mode
from eyas.storage.artifacts import MANIFEST, Artifact, read_json
from eyas.storage.shards import shard_paths

ROLES = ("base", "sft", "control", "control_seconds", "seqkd", "distilled", "teacher")
"""Order of the report; other roles come before the teacher, as the recipe has them."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """One model's answer to one example: the first of its samples, and what all of them scored."""

    grade: float | None
    """Share of the samples that are right, as in the accuracy; None where none was graded."""
    first_grade: float | None
    text: str
    truncated: bool
    tokens: int
    """Of the completion."""


@dataclass(frozen=True)
class Budget:
    """What a model cost beyond the checkpoint it shares with the others."""

    trained_tokens: int
    train_seconds: float
    data_seconds: float
    """Rollouts and scoring."""

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.train_seconds + self.data_seconds


Predictions = Mapping[tuple[str, Mode], Prediction]
"""(example id, mode) -> answer."""


class Evidence:
    """A finished run up to its report. `artifacts` are in recipe order, keyed by stage name."""

    def __init__(self, recipe: Recipe, artifacts: Mapping[str, Artifact]) -> None:
        self.recipe, self.artifacts = recipe, artifacts
        self.stages: Mapping[str, Stage] = {
            stage.name: stage for stage in expand(recipe) if stage.name in artifacts and stage.type != "report"
        }
        found = {
            role: name
            for name, stage in self.stages.items()
            if isinstance(stage, EvaluateStage)
            for role in [artifacts[name].facts["role"]]
        }
        last = [role for role in found if role not in ROLES]
        order = [*ROLES[:-1], *last, ROLES[-1]]
        self.evaluations: Mapping[str, str] = {role: found[role] for role in order if role in found}
        """Role -> name of its evaluation stage."""

    @property
    def roles(self) -> list[str]:
        """Evaluated roles in the report's order."""
        return list(self.evaluations)

    @property
    def modes(self) -> list[Mode]:
        """Modes that any role was evaluated in."""
        return [mode for mode in MODES if any(mode in self.facts(role)["accuracy"] for role in self.roles)]

    def facts(self, role: str) -> Mapping[str, Any]:
        """What the role's evaluation measured."""
        return self.artifacts[self.evaluations[role]].facts

    def evaluation(self, role: str) -> EvaluateStage:
        """The role's evaluation stage."""
        stage = self.stages[self.evaluations[role]]
        if not isinstance(stage, EvaluateStage):
            raise TypeError(f"{stage.name} is a stage of type {stage.type}, expected evaluate.")
        return stage

    def model_name(self, role: str) -> str:
        """`student`, `teacher` or the stage whose weights play this role."""
        return next(iter(self.evaluation(role).models.values()))

    @cached_property
    def predictions(self) -> Mapping[str, Predictions]:
        """Role -> its answers to the held-out examples."""
        return {role: self._read(role, "predictions") for role in self.roles}

    @cached_property
    def off_task(self) -> Mapping[str, Predictions]:
        """Role -> its answers to the off-task prompts; empty where there are none."""
        return {role: self._read(role, "off_task") for role in self.roles}

    def _read(self, role: str, folder: str) -> Predictions:
        return read_predictions(self.artifacts[self.evaluations[role]].path / folder)

    def divergence_rollouts(self) -> set[str]:
        """Rollout stages whose sequences only measure the divergence."""
        scores = {
            name for role in self.roles for name in self.evaluation(role).divergence_scores.values()
        } & self.stages.keys()
        return {stage.sequences for name in scores if isinstance(stage := self.stages[name], ScoreStage)}

    def lineage(self, role: str) -> list[str]:
        """Stages that made this role's model out of the checkpoint of role `sft`, rollouts and scoring included.

        Back to the start for a run that has no such role; empty for the student, the teacher and `sft` itself.
        """
        shared = self.model_name("sft") if "sft" in self.evaluations else None
        return [stage.name for stage in lineage(list(self.stages.values()), self.model_name(role), start=shared)]

    def budget(self, role: str) -> Budget:
        """Trained tokens and seconds of `lineage`, an artifact that two of its stages share counted once."""
        made = list({self.artifacts[name].path: self.artifacts[name] for name in self.lineage(role)}.values())
        trained = [artifact for artifact in made if artifact.stage in ("sft", "distill")]
        return Budget(
            trained_tokens=sum(artifact.facts["tokens"] for artifact in trained),
            train_seconds=sum(artifact.seconds for artifact in trained),
            data_seconds=sum(artifact.seconds for artifact in made if artifact not in trained),
        )

    def seconds(self, name: str) -> float:
        """Wall-clock seconds of a stage; 0 where its artifact is an earlier stage's."""
        path = self.artifacts[name].path
        first = next(stage for stage in self.stages if self.artifacts[stage].path == path)
        return self.artifacts[name].seconds if first == name else 0.0

    def trainings(self) -> list[str]:
        """Stages that train, in order."""
        return [name for name, stage in self.stages.items() if isinstance(stage, SftStage | DistillStage)]

    def tokens(self, name: str) -> int:
        """Prompt and completion tokens that a stage trained on, made or scored; 0 where it handles none."""
        artifact = self.artifacts[name]
        if artifact.stage in ("evaluate", "export"):
            return sum(map(count_tokens, (artifact.path / "predictions", artifact.path / "off_task")))
        return int(artifact.facts.get("tokens", 0))

    def hardware(self) -> list[Mapping[str, Any]]:
        """The machines the artifacts were made on, each once, most stages first."""
        made = [read_json(artifact.path / MANIFEST).get("made_on") or {} for artifact in self.artifacts.values()]
        distinct: Sequence[Mapping[str, Any]] = [item for n, item in enumerate(made) if item not in made[:n]]
        return sorted((item for item in distinct if item), key=lambda item: -made.count(item))


def read_predictions(directory: Path) -> dict[tuple[str, Mode], Prediction]:
    """First sample of every example and mode, without its token ids, and the share of right ones among all.

    Raises: CorruptArtifact, if a shard does not match its checksum.
    """
    first: dict[tuple[str, Mode], Prediction] = {}
    grades: dict[tuple[str, Mode], list[float]] = defaultdict(list)
    for path in shard_paths(directory):
        columns = ["example_id", "sample", "mode", "completion_ids", "finish_reason", "text", "grade"]
        table = pq.read_table(path, columns=columns)
        lengths = pc.list_value_length(table["completion_ids"]).to_pylist()
        for row, length in zip(table.drop_columns("completion_ids").to_pylist(), lengths, strict=True):
            key = row["example_id"], row["mode"]
            grades[key] += [] if row["grade"] is None else [float(row["grade"] >= 1.0)]
            if row["sample"] == 0:
                first[key] = Prediction(
                    grade=None, first_grade=row["grade"], text=row["text"],
                    truncated=row["finish_reason"] == "length", tokens=length,
                )  # fmt: skip
    means = {key: sum(found) / len(found) for key, found in grades.items() if found}
    return {key: replace(prediction, grade=means.get(key)) for key, prediction in first.items()}


def count_tokens(directory: Path) -> int:
    """Prompt and completion tokens of all sequences in a directory of shards; 0 if there is none."""
    columns = ["prompt_ids", "completion_ids"]
    tables = [pq.read_table(path, columns=columns) for path in directory.glob("[0-9]*.parquet")]
    return sum(int(pc.sum(pc.list_value_length(table[name])).as_py() or 0) for table in tables for name in columns)
