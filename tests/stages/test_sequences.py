"""Rollout, score and evaluate on hand-made inputs: closed shards, grades, keys and what is measured."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from eyas import grading
from eyas.errors import DataError
from eyas.recipe import EvaluateStage, Recipe, RolloutStage, ScoreStage, parse_recipe
from eyas.records import Example, SequenceRecord
from eyas.stages import evaluate, rollout, score
from eyas.storage.artifacts import Artifact, StageClock
from eyas.storage.context import SilentProgress, StageContext
from eyas.storage.scores import read_scores
from eyas.storage.shards import read_records, shard_paths, write_shard
from eyas.storage.tokenization import load_tokenizer

STAGE = {"type": "prepare", "source": {"type": "arithmetic"}, "labelled": 1, "validation": 1, "test": 1}
EXECUTION = {"generation_batch_size": 8, "scoring_batch_size": 4, "device": "cpu"}
LABELLED = [
    Example(key=f"{i}+1", prompt=(("user", f"{i}+1"),), answer=str(i + 1), reasoning=f"{i}+1={i + 1}", level="easy",
            origin="odd" if i % 2 else "even")
    for i in range(6)
]  # fmt: skip
RAW = [replace(example, key=f"{example.key}?", answer=None, reasoning=None) for example in LABELLED]


def recipe() -> Recipe:
    return parse_recipe(
        {
            "name": "r",
            "student": "builtin:nano-student",
            "thinking": "qwen3",
            "stages": [STAGE],
            "execution": EXECUTION,
        }
    )


def artifact(path: Path, **facts: Any) -> Artifact:
    return Artifact(path=path, stage="", fingerprint=path.name, config={}, facts=facts, seconds=1.0)


def context(directory: Path, inputs: Mapping[str, Artifact]) -> StageContext:
    directory.mkdir(parents=True, exist_ok=True)
    return StageContext(
        recipe=recipe(),
        directory=directory,
        inputs=inputs,
        clock=StageClock(directory),
        progress=SilentProgress(),
    )


@pytest.fixture
def inputs(tiny_student: Path, tmp_path: Path) -> dict[str, Artifact]:
    root = tmp_path / "prepare"
    for split, examples in {
        "labelled": LABELLED,
        "unlabelled": RAW,
        "test": LABELLED,
        "off_task": LABELLED[:2],
    }.items():
        write_shard(root / "examples" / split, 0, examples, kind=Example)
    return {"data": artifact(root), "model": artifact(tiny_student.parent, dtype="float32")}


def greedy(**fields: Any) -> EvaluateStage:
    given = {"models": {"base": "student"}, "sampling": {"temperature": 0, "max_completion_tokens": 20}}
    return EvaluateStage.model_validate({"type": "evaluate", **given} | fields)


def rollout_stage(**fields: Any) -> RolloutStage:
    return RolloutStage.model_validate(
        {"type": "rollout", "prompts": "all", "sampling": {"max_completion_tokens": 60}} | fields
    )


def sequences(directory: Path) -> list[SequenceRecord]:
    return list(read_records(directory / "sequences", kind=SequenceRecord))


def test_sampled_sequences_are_graded_where_an_answer_is_known(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    facts = rollout.run(rollout_stage(samples_per_prompt=2), context(tmp_path / "r", inputs))
    made = sequences(tmp_path / "r")
    assert len(made) == 12 * 2 * 2 == facts["sequences"]
    assert len({(item.example_id, item.mode, item.sample) for item in made}) == len(made)
    answered = {example.id for example in LABELLED}
    for item in made:
        assert (item.grade is not None) == (item.example_id in answered)
        assert len(item.sampling_logprobs) == len(item.completion_ids)
        if item.finish_reason == "length":
            assert item.answer is None
            assert item.grade in (None, 0.0)
    assert facts["fast"]["graded"] == 12


def test_a_killed_rollout_keeps_its_whole_shards_and_ends_bit_equal(
    inputs: dict[str, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout, "SHARD", 5)
    rollout.run(rollout_stage(), context(tmp_path / "r", inputs))
    before = {path.name: path.stat().st_mtime_ns for path in shard_paths(tmp_path / "r" / "sequences")}
    assert len(before) == 5
    lost, cut, *_ = shard_paths(tmp_path / "r" / "sequences")
    lost.unlink()
    cut.write_bytes(cut.read_bytes()[:100])
    rollout.run(rollout_stage(), context(tmp_path / "r", inputs))
    after = {path.name: path.stat().st_mtime_ns for path in shard_paths(tmp_path / "r" / "sequences")}
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] != after[name]} == {lost.name, cut.name}


def test_label_rollouts_are_the_references(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    facts = rollout.run(rollout_stage(prefix="label", prompts="labelled"), context(tmp_path / "r", inputs))
    assert {item.text for item in sequences(tmp_path / "r") if item.mode == "fast"} == {e.answer for e in LABELLED}
    assert facts["reasoning"]["pass_rate"] == 1.0
    with pytest.raises(DataError, match="no labelled example has what the modes"):
        rollout.run(rollout_stage(prefix="label", prompts="unlabelled"), context(tmp_path / "u", inputs))


def test_rollouts_that_were_all_cut_name_the_setting_unless_too_few_to_judge(
    inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    sampling = {"temperature": 0, "max_completion_tokens": 1}
    few = rollout_stage(modes=["fast"], sampling=sampling)
    assert rollout.run(few, context(tmp_path / "few", inputs))["truncated"] == 1.0
    many = rollout_stage(modes=["fast"], sampling=sampling, samples_per_prompt=3)
    with pytest.raises(DataError, match=r"(?s)all 36 .* reached 1 tokens .* Raise sampling.max_completion_tokens"):
        rollout.run(many, context(tmp_path / "many", inputs))


def scored(inputs: dict[str, Artifact], tiny_teacher: Path, tmp_path: Path) -> dict[str, Artifact]:
    rollout.run(rollout_stage(), context(tmp_path / "r", inputs))
    made = sequences(tmp_path / "r")
    write_shard(tmp_path / "r" / "sequences", 1, [replace(made[0], sample=1), *made[:3]], kind=SequenceRecord)
    given = {"sequences": artifact(tmp_path / "r"), "model": artifact(tiny_teacher.parent, dtype="float32")}
    facts = score.run(ScoreStage(type="score"), context(tmp_path / "s", given))
    assert facts["sequences"] == len({item.token_hash for item in made})
    return {"scores:student": artifact(tmp_path / "s"), "sequences:student": artifact(tmp_path / "r")}


def test_each_distinct_sequence_is_scored_once(inputs: dict[str, Artifact], tiny_teacher: Path, tmp_path: Path) -> None:
    scored(inputs, tiny_teacher, tmp_path)
    made = {item.token_hash: item for item in sequences(tmp_path / "r")}
    found = list(read_scores(tmp_path / "s" / "scores"))
    assert [item.token_hash for item in found] == list(made)
    for item in found:
        count = len(made[item.token_hash].completion_ids)
        assert len(item.counts) == len(item.tail) == len(item.token_logprobs) == count
        assert len(item.ids) == len(item.logprobs) == item.counts.sum()
        assert item.counts.max() <= 10


def test_evaluation_measures_accuracy_forgetting_and_divergence(
    inputs: dict[str, Artifact], tiny_teacher: Path, tmp_path: Path
) -> None:
    given = inputs | scored(inputs, tiny_teacher, tmp_path)
    given["model:base"] = given["model"]
    stage = greedy(divergence_scores={"student": "score"})
    facts = evaluate.run(stage, context(tmp_path / "e", given))
    for mode in ("reasoning", "fast"):
        accuracy = facts["accuracy"][mode]
        assert accuracy["n"] == 6
        assert 0 <= accuracy["low"] <= accuracy["value"] <= accuracy["high"] <= 1
        assert 1 <= accuracy["mean_tokens"] <= 20
        assert facts["by_level"][mode]["easy"]["n"] == 6
    assert facts["off_task"]["nll"] > 0
    assert facts["divergence"]["student"]["value"] > 0
    assert facts["bulk"]["tokens_per_second"] > 0
    again = evaluate.run(stage, context(tmp_path / "e", given))
    assert again["bulk"]["tokens_per_second"] is None
    assert again | {"bulk": None} == facts | {"bulk": None}


def test_a_prompt_longer_than_the_context_is_answered_wrong_and_ends_no_evaluation(
    inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    long = replace(LABELLED[0], key="long", prompt=(("user", "1+1 " * 2000),))
    root = inputs["data"].path / "examples"
    write_shard(root / "test", 0, [LABELLED[1], long, LABELLED[2]], kind=Example)
    write_shard(root / "off_task", 0, [replace(long, key="off"), LABELLED[3]], kind=Example)
    given = inputs | {"model:base": inputs["model"]}
    facts = evaluate.run(greedy(modes=["fast"]), context(tmp_path / "e", given))
    answers = list(read_records(tmp_path / "e" / "predictions", kind=SequenceRecord))
    assert [item.example_id for item in answers] == [LABELLED[1].id, long.id, LABELLED[2].id]
    assert [bool(item.completion_ids) for item in answers] == [True, False, True]
    assert (answers[1].finish_reason, answers[1].grade, answers[1].answer) == ("length", 0.0, None)
    assert (facts["accuracy"]["fast"]["n"], facts["too_long"], facts["off_task"]["nll"] > 0) == (3, 2, True)
    write_shard(root / "labelled", 0, [long], kind=Example)
    with pytest.raises(DataError, match="does not fit the model's context"):
        rollout.run(rollout_stage(prompts="labelled"), context(tmp_path / "r", inputs))


def test_evaluation_facts_say_by_which_grader_prompts_and_settings(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    given = inputs | {"model:base": inputs["model"]}
    settings = evaluate.run(greedy(), context(tmp_path / "e", given))["settings"]
    assert (settings["graders"], settings["grading_version"]) == (["numeric"], grading.VERSION)
    assert settings["sampling"]["max_completion_tokens"] == 20
    assert (settings["samples_per_prompt"], settings["thinking"]["switch"]) == (1, "")
    tokenizer = load_tokenizer(inputs["model"].path / "model")
    answers = sorted(
        read_records(tmp_path / "e" / "predictions", kind=SequenceRecord), key=lambda item: item.example_id
    )
    texts = [tokenizer.decode(item.prompt_ids) for item in answers if item.mode == "fast"]
    assert texts[0].endswith("<think>\n\n</think>\n\n")
    assert settings["prompts_sha256"]["fast"] == hashlib.sha256(json.dumps(texts).encode()).hexdigest()
    assert settings["prompts_sha256"]["fast"] != settings["prompts_sha256"]["reasoning"]
    assert settings["template_sha256"] == hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()


def test_sampled_evaluation_answers_every_example_several_times_and_tells_sources_apart(
    inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    given = inputs | {"model:base": inputs["model"]}
    stage = greedy(sampling={"temperature": 1, "max_completion_tokens": 8}, samples_per_prompt=3, pass_at=[1, 3])
    facts = evaluate.run(stage, context(tmp_path / "e", given))
    answers = list(read_records(tmp_path / "e" / "predictions", kind=SequenceRecord))
    assert len(answers) == 2 * 6 * 3
    assert [item.sample for item in answers[:4]] == [0, 1, 2, 0]
    assert len({tuple(item.completion_ids) for item in answers}) > 12
    assert facts["accuracy"]["fast"]["n"] == 6
    assert set(facts["pass_at_k"]["fast"]) == {"1", "3"}
    assert {name: found["n"] for name, found in facts["by_source"]["fast"].items()} == {"even": 3, "odd": 3}


def test_greedy_samples_and_a_k_beyond_the_samples_are_recipe_errors() -> None:
    with pytest.raises(ValidationError, match=r"`samples_per_prompt: 4` needs `sampling.temperature` above 0"):
        greedy(samples_per_prompt=4)
    with pytest.raises(
        ValidationError, match=r"`pass_at: 8` needs at least as many samples, found `samples_per_prompt: 4`"
    ):
        greedy(sampling={"temperature": 1}, samples_per_prompt=4, pass_at=[1, 8])
