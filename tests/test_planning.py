"""`eyas plan`: why each stage is to be made, what it costs, and whether the machine is large enough."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eyas.estimates import Estimate, Estimator, Lengths, Machine, ModelSize
from eyas.graph import Node, build_graph
from eyas.pipeline import run_recipe
from eyas.planning import memory_warning, print_plan, size_of, states_of, within_files
from eyas.recipe import DistillStage, EvaluateStage, PrepareStage, Recipe, RolloutStage, ScoreStage, parse_recipe
from eyas.storage.artifacts import MANIFEST
from eyas.storage.context import SilentProgress
from eyas.storage.models import parameter_count


def recipe(student: Path, **training: Any) -> Recipe:
    prepare = {"type": "prepare", "source": {"type": "arithmetic"}, "labelled": 20, "validation": 2, "test": 2}
    sft = {"type": "sft", "modes": {"fast": 1}, "training": {"steps": 2, "batch_size": 4} | training}
    second = sft | {"name": "second", "model": "sft"}
    return parse_recipe({"name": "r", "student": str(student), "stages": [prepare, sft, second]})


def run(wanted: Recipe, runs: Path, *, stage: str) -> None:
    run_recipe(
        wanted,
        recipe_text="",
        workspace=runs,
        progress=lambda *_: nullcontext(SilentProgress()),
        wanted=lambda node: node.name == stage,
    )


def states(wanted: Recipe, runs: Path) -> dict[str, str]:
    return states_of(build_graph(wanted, workspace=runs), workspace=runs)


def test_a_state_says_why(tiny_student: Path, tmp_path: Path) -> None:
    first = recipe(tiny_student)
    assert states(first, tmp_path) == {
        "student": "to do", "prepare": "to do", "sft": "to do, after prepare", "second": "to do, after sft",
    }  # fmt: skip

    run(first, tmp_path, stage="prepare")
    sft = node_of(first, tmp_path, "sft").directory
    sft.mkdir()
    (sft / "clock.json").write_text("{}")
    assert states(first, tmp_path) == {
        "student": "done, skipped", "prepare": "done, skipped", "sft": "begun, continues",
        "second": "to do, after sft",
    }  # fmt: skip

    run(first, tmp_path, stage="sft")
    assert states(first, tmp_path)["sft"] == "done, skipped"
    changed = states(recipe(tiny_student, steps=3), tmp_path)
    assert changed["sft"] == "to do, an earlier one differs in training.steps"
    assert changed["second"] == "to do, after sft"
    far = {"steps": 3, "batch_size": 8, "weight_decay": 0.1, "schedule": "linear"}
    assert states(recipe(tiny_student, **far), tmp_path)["sft"] == "to do"
    reseeded = first.model_copy(update={"seed": 1})
    assert states(reseeded, tmp_path)["prepare"] == "to do, an earlier one differs in seed, thinking format or version"

    (weights,) = (sft / "model").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    assert states(first, tmp_path)["sft"] == "damaged, redone"


def test_an_unreadable_manifest_explains_nothing_and_breaks_nothing(tiny_student: Path, tmp_path: Path) -> None:
    broken = tmp_path / "artifacts" / "prepare-0" / MANIFEST
    broken.parent.mkdir(parents=True)
    broken.write_text("{")
    assert states(recipe(tiny_student), tmp_path)["prepare"] == "to do"


def node_of(wanted: Recipe, runs: Path, name: str) -> Node:
    return next(node for node in build_graph(wanted, workspace=runs) if node.name == name)


def test_an_input_that_differs_is_named_by_its_field(tiny_student: Path, tmp_path: Path) -> None:
    first, more = recipe(tiny_student), recipe(tiny_student, steps=3)
    run(first, tmp_path, stage="second")
    run(more, tmp_path, stage="sft")
    second = node_of(more, tmp_path, "second")
    # As configured it is `sft` in all but the weights it starts from.
    assert states(more, tmp_path)[second.name] == "to do, an earlier one differs in model, training.steps"


def test_the_plan_needs_no_weights_and_writes_nothing(
    tiny_student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("eyas.storage.models.load_model", lambda *_, **__: pytest.fail("weights were loaded"))
    spec = {"from": str(tiny_student), "keep_layers": 1}
    pruned = parse_recipe(recipe(tiny_student).model_dump(by_alias=True, exclude_unset=True) | {"student": spec})
    print_plan(pruned, workspace=tmp_path / "runs")
    assert "M parameters, 1 layers" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


def test_numbers_stand_right(tiny_student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_plan(recipe(tiny_student), workspace=tmp_path)
    lines = capsys.readouterr().out.splitlines()
    (head,) = (line for line in lines if "sequences" in line)
    (row,) = (line for line in lines if line.split()[:1] == ["sft"])
    end = head.index("sequences") + len("sequences")
    # Two steps of four sequences.
    assert row[:end].endswith(" 8")


def test_sizes_come_from_the_config_alone(tiny_teacher: Path) -> None:
    size = size_of(tiny_teacher)
    assert size.parameters == parameter_count(tiny_teacher)
    assert (size.layers, size.hidden, size.kv_width) == (2, 64, 64)


def test_no_more_is_asked_of_a_file_than_it_has(tmp_path: Path) -> None:
    path, off_task = tmp_path / "data.jsonl", tmp_path / "off.jsonl"
    path.write_text('{"prompt": "a"}\n' * 200)
    off_task.write_text('{"prompt": "b"}\n' * 30)
    source = {"type": "file", "path": str(path)}
    asked = {"labelled": 100, "unlabelled": 4000, "validation": 300, "test": 2000, "off_task_count": 500}
    stage = PrepareStage.model_validate(
        {"type": "prepare", "source": source, "off_task": source | {"path": str(off_task)}} | asked
    )
    capped = within_files(stage)
    # Of 200 lines 170 train, 10 validation, 20 test; of 30 off-task lines 3 test.
    assert {name: getattr(capped, name) for name in asked} == {
        "labelled": 100, "unlabelled": 70, "validation": 10, "test": 20, "off_task_count": 3,
    }  # fmt: skip
    generated = PrepareStage.model_validate({"type": "prepare", "source": {"type": "arithmetic"}} | asked)
    assert within_files(generated) == generated


def estimator(wanted: Recipe) -> Estimator:
    size = ModelSize(parameters=10**6, layers=2, hidden=64, kv_width=64, vocabulary=320)
    lengths = Lengths(prompt={"fast": 8.0}, completion={"fast": 4.0})
    machine = Machine(flop_per_s=1e9, memory_bytes=2**30)
    return Estimator(sizes={"student": size}, lengths=lengths, machine=machine, execution=wanted.execution)


def test_a_rollout_costs_its_prompts_and_its_cache(tiny_student: Path) -> None:
    wanted = recipe(tiny_student)
    costs = estimator(wanted)
    costs.estimate(wanted.stages[0])
    made = costs.estimate(RolloutStage(type="rollout", prompts="labelled", modes=("fast",), samples_per_prompt=2))
    # 20 prompts twice, of 8 + 4 tokens.
    assert (made.sequences, made.tokens) == (40, 480)
    # fp32 weights twice and a cache of 64 sequences x 12 tokens x (keys and values of 2 layers x 64) in fp32.
    assert made.memory_bytes == 2 * 4 * 10**6 + 64 * 12 * 2 * 2 * 64 * 4


def test_an_evaluation_costs_every_sample(tiny_student: Path) -> None:
    wanted = recipe(tiny_student)
    costs = estimator(wanted)
    costs.estimate(wanted.stages[0])
    stage = {"type": "evaluate", "models": {"base": "student"}, "modes": ["fast"], "sampling": {"temperature": 1}}
    made = costs.estimate(EvaluateStage.model_validate(stage | {"samples_per_prompt": 3}))
    # 2 test examples three times, of 8 + 4 tokens.
    assert (made.sequences, made.tokens) == (6, 72)


def test_distillation_costs_its_sampled_modes(tiny_student: Path) -> None:
    wanted = recipe(tiny_student)
    costs = estimator(wanted)
    costs.estimate(wanted.stages[0])
    costs.estimate(RolloutStage(type="rollout", prompts="labelled", modes=("fast",)))
    costs.estimate(ScoreStage(type="score", model="student"))
    training = {"epochs": 2, "batch_size": 10}
    made = costs.estimate(DistillStage.model_validate({"type": "distill", "scores": "score", "training": training}))
    # Twice the 20 sequences of 8 + 4 tokens.
    assert (made.sequences, made.tokens) == (40, 480)


def test_adapters_need_no_moments_of_the_weights(tiny_student: Path) -> None:
    needs = []
    for training in ({}, {"lora": {"rank": 4}}):
        wanted = recipe(tiny_student, **training)
        costs = estimator(wanted)
        needs.append([costs.estimate(stage) for stage in wanted.stages][1].memory_bytes)
    # 16 bytes a trained parameter, 4 a frozen one.
    assert needs[0] - needs[1] == 12 * 10**6


def test_too_little_memory_names_the_setting_to_lower(tiny_student: Path, tmp_path: Path) -> None:
    wanted = recipe(tiny_student)
    nodes = build_graph(wanted, workspace=tmp_path)
    costs = {node.name: Estimate(memory_bytes=3 * 2**30 if node.name == "sft" else 0) for node in nodes}
    machine = Machine(flop_per_s=1e9, memory_bytes=2 * 2**30)
    assert memory_warning(nodes, costs, machine=machine, execution=wanted.execution) == (
        "Warning: sft needs about 3.0 GiB of memory, this machine has 2.0 GiB. "
        "Lower execution.micro_batch_size (now 16), or take a smaller model."
    )
    enough = replace(machine, memory_bytes=3 * 2**30)
    assert memory_warning(nodes, costs, machine=enough, execution=wanted.execution) == ""
