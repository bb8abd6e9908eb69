"""Losses through the stages: sampled, scored and trained on, the first step's figures are those of plain formulas."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import STUDENT, TEACHER
from test_sequences import LABELLED, RAW, STAGE, artifact, context, rollout_stage, sequences
from torch import Tensor

from eyas.logcodes import TOKEN_STEP
from eyas.recipe import LEGAL, DistillStage, Legal, ModelSpec, ScoreStage, Tail, parse_recipe
from eyas.records import Example
from eyas.report.evidence import Evidence
from eyas.report.summary import cache_statistics
from eyas.stages import distill, rollout, score
from eyas.storage.artifacts import Artifact
from eyas.storage.models import load_model, materialise
from eyas.storage.scores import TeacherScores, read_scores
from eyas.storage.shards import write_shard

Inputs = dict[str, Artifact]
CASES = [
    pytest.param(row, tail, id=f"{row.objective}-{row.divergence}-{tail}-{row.target}")
    for row in LEGAL
    for tail in row.tails or (None,)
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random pair whose weights are large enough for peaked distributions, which temperatures change."""
    made = {}
    for seed, (name, config) in enumerate({"student": STUDENT, "teacher": TEACHER}.items()):
        made[name] = random_model(tmp_path_factory.mktemp(name), config, spread=0.3, seed=seed)
    return made


def random_model(directory: Path, config: dict[str, object], *, spread: float, seed: int) -> Path:
    materialise(
        ModelSpec(config={**config, "initializer_range": spread}, tokenizer="builtin:tokenizer"), directory, seed=seed
    )
    return directory


@pytest.fixture(scope="module")
def rolled(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return rollouts(models["student"], tmp_path_factory.mktemp("rolled"))


def rollouts(student: Path, root: Path) -> Inputs:
    """Prompts, and what the student samples for them."""
    for split, examples in {"labelled": LABELLED, "unlabelled": RAW}.items():
        write_shard(root / "prepare" / "examples" / split, 0, examples, kind=Example)
    given = {"data": artifact(root / "prepare"), "model": artifact(student, dtype="float32")}
    rollout.run(rollout_stage(sampling={"max_completion_tokens": 24}), context(root / "r", given))
    return given | {"sequences": artifact(root / "r")}


def scored(rolled: Inputs, teacher: Path, directory: Path, **fields: Any) -> Inputs:
    stage = ScoreStage.model_validate({"type": "score"} | fields)
    given = {"sequences": rolled["sequences"], "model": artifact(teacher, dtype="float32")}
    facts = score.run(stage, context(directory, given))
    return rolled | {"scores": replace(artifact(directory, **facts), config=stage.model_dump())}


@pytest.fixture(scope="module")
def plain(rolled: Inputs, models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return scored(rolled, models["teacher"], tmp_path_factory.mktemp("plain"), mass=1)


@pytest.fixture(scope="module")
def drawn(rolled: Inputs, models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return scored(rolled, models["teacher"], tmp_path_factory.mktemp("drawn"), target="random_sampling")


def trained(inputs: Inputs, directory: Path, **loss: Any) -> list[dict[str, float]]:
    """The curve of two steps, each on every sequence once."""
    count = len(sequences(inputs["sequences"].path))
    training = {"batch_size": count, "steps": 2, "learning_rate": 1e-3, "warmup": 0, "schedule": "constant"}
    fields = {"type": "distill", "scores": "score", "loss": loss, "training": training}
    distill.run(DistillStage.model_validate(fields), context(directory, inputs))
    return [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]


def dense(path: Path, inputs: Inputs, *, temperature: float = 1.0) -> list[Tensor]:
    """Log-probs over the whole vocabulary at every completion token, [T, V] of each sequence, by plain passes."""
    model, found = load_model(path / "model"), []
    for item in sequences(inputs["sequences"].path):
        with torch.no_grad():
            logits = model(torch.tensor([item.prompt_ids + item.completion_ids])).logits[0].double()
        found.append((logits / temperature).log_softmax(-1)[len(item.prompt_ids) - 1 : -1])
    return found


@dataclass(frozen=True)
class Token:
    """A completion token as the formulas need it."""

    teacher: float
    """Stored log-prob of the token itself."""
    student: float
    divergence: float
    """KL(teacher || student) over stored entries and a bucket."""


def tokens(inputs: Inputs, models: dict[str, Path]) -> Iterator[Token]:
    """Of every sequence, one entry list at a time."""
    stored = {item.token_hash: item for item in read_scores(inputs["scores"].path / "scores")}
    for item, student_TV in zip(sequences(inputs["sequences"].path), dense(models["student"], inputs), strict=True):
        kept: TeacherScores = stored[item.token_hash]
        ends = np.cumsum(kept.counts)
        for row, (token, log_q_V) in enumerate(zip(item.completion_ids, student_TV, strict=True)):
            entries = slice(ends[row] - kept.counts[row], ends[row])
            q_V = np.exp(log_q_V.numpy())
            outside = float(np.delete(q_V, kept.ids[entries]).sum())
            q = np.append(q_V[kept.ids[entries]], outside)
            p = np.exp(np.append(kept.logprobs[entries], kept.tail[row]).astype(np.float64))
            held = p > 0
            divergence = float((p[held] * np.log(p[held] / q[held])).sum())
            yield Token(float(kept.token_logprobs[row]), float(log_q_V[token]), divergence)


def test_both_sides_are_softened_by_the_temperature_of_the_scores(
    rolled: Inputs, models: dict[str, Path], tmp_path: Path
) -> None:
    """T^2 KL over the whole vocabulary; what the cache rounds away is far less than any other temperature would do."""
    inputs = scored(rolled, models["teacher"], tmp_path / "s", temperature=2, top_k=10_000, mass=1)
    wrong = []
    for student_temperature, factor in ((2.0, 4), (2.0, 1), (1.0, 4), (1.0, 1)):
        student = dense(models["student"], inputs, temperature=student_temperature)
        teacher = dense(models["teacher"], inputs, temperature=2.0)
        terms = [(p.exp() * (p - q)).sum(-1) for p, q in zip(teacher, student, strict=True)]
        wrong.append(factor * float(torch.cat(terms).mean()))
    expected = wrong.pop(0)
    assert all(abs(value - expected) > 0.1 * expected for value in wrong)
    assert trained(inputs, tmp_path / "d")[0]["kd"] == pytest.approx(expected, rel=0.02)


def test_drawn_targets_train_and_their_captured_mass_is_unknown_to_the_report(drawn: Inputs, tmp_path: Path) -> None:
    for item in read_scores(drawn["scores"].path / "scores"):
        ends = np.cumsum(item.counts)
        shares = np.add.reduceat(np.exp(item.logprobs.astype(np.float64)), ends - item.counts)
        np.testing.assert_allclose(shares, 1.0, rtol=1e-5)
        assert np.isneginf(item.tail).all()
    curve = trained(drawn, tmp_path / "d")
    assert curve[1]["kd"] < curve[0]["kd"]
    facts = drawn["scores"].facts
    assert facts["mean_captured_mass"] is None
    stages = [
        STAGE,
        {"type": "rollout"},
        {"type": "score", "target": "random_sampling"},
        {"type": "distill", "scores": "score"},
    ]
    pair = {"student": "builtin:nano-student", "teacher": "builtin:nano-teacher"}
    evidence = Evidence(parse_recipe({"name": "r", "stages": stages} | pair), {"score": drawn["scores"]})
    found = cache_statistics(evidence)
    assert found == {"bytes_per_token": pytest.approx(facts["bytes_per_token"]), "mean_captured_mass": None}


def test_the_sampled_advantage_is_that_of_the_stored_log_probs(
    plain: Inputs, models: dict[str, Path], tmp_path: Path
) -> None:
    found = list(tokens(plain, models))
    advantages = [max(-1.0, min(1.0, token.teacher - token.student)) for token in found]
    assert min(advantages) == -1
    curve = trained(plain, tmp_path, objective="sampled_advantage", advantage_clip=1)
    assert curve[0]["kd"] == pytest.approx(-np.mean(advantages), rel=1e-4)


def test_asymmetric_takes_the_divergence_where_the_teacher_likes_the_token_less(
    plain: Inputs, models: dict[str, Path], tmp_path: Path
) -> None:
    found = list(tokens(plain, models))
    above = [token.teacher - token.student > TOKEN_STEP / 2 for token in found]
    assert 0.05 < np.mean(above) < 0.95
    terms = [
        -min(10.0, token.teacher - token.student) if liked else token.divergence
        for token, liked in zip(found, above, strict=True)
    ]
    curve = trained(plain, tmp_path, objective="asymmetric")
    assert curve[0]["kd"] == pytest.approx(np.mean(terms), rel=1e-4)


def test_a_teacher_as_sure_as_the_student_is_not_above_it_after_the_cache_has_rounded_it(tmp_path: Path) -> None:
    """The student as its own teacher: its log-probs above -1/128 are stored as 0."""
    student = random_model(tmp_path / "m", STUDENT, spread=1.0, seed=0)
    inputs = scored(rollouts(student, tmp_path / "r"), student, tmp_path / "s", mass=1)
    found = list(tokens(inputs, {"student": student}))
    sure = [token for token in found if token.student > -TOKEN_STEP / 2]
    assert len(sure) > 5
    assert all(token.teacher == 0 for token in sure)
    curve = trained(inputs, tmp_path / "d", objective="asymmetric")
    expected = np.mean([token.divergence for token in found])
    assert curve[0]["kd"] == pytest.approx(expected, rel=1e-3)
    counted = sum(token.teacher - token.student + token.divergence for token in sure) / len(found)
    assert counted > 0.02 * expected  # what it would be off by if they counted as above


@pytest.mark.parametrize(("row", "tail"), CASES)
def test_every_legal_loss_trains(row: Legal, tail: Tail | None, plain: Inputs, drawn: Inputs, tmp_path: Path) -> None:
    loss = {"objective": row.objective, "divergence": row.divergence, "tail": tail}
    inputs = {"top_k": plain, "random_sampling": drawn}[row.target]
    first, second = trained(inputs, tmp_path, **{name: value for name, value in loss.items() if value is not None})
    assert all(np.isfinite(value) for value in (*first.values(), *second.values()))
    if not row.sampled:  # a policy gradient's value is no loss that falls
        assert second["loss"] < first["loss"]
