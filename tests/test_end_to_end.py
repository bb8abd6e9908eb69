"""The whole pipeline on a tiny pair: values, resume, corruption, limits and what the command line says."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from conftest import write_small_recipe

from eyas.storage.shards import shard_paths

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}


@dataclass
class Done:
    """How a command of the command line ended."""

    returncode: int
    stdout: str
    stderr: str


def eyas(*arguments: str | Path, check: bool = True, stdin: str = "") -> Done:
    """Run the command line in this process, which spares the tests a second import of torch each."""
    from eyas.cli import main

    out, err = io.StringIO(), io.StringIO()
    argv, old_stdin = sys.argv, sys.stdin
    sys.argv, sys.stdin = ["eyas", *map(str, arguments)], io.StringIO(stdin)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.argv, sys.stdin = argv, old_stdin
    done = Done(code, out.getvalue(), err.getvalue())
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def weights(run: Path, role: str = "distilled") -> str:
    return hashlib.sha256((run / "models" / role / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="session")
def recipe_and_run(
    tiny_student: Path, tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A recipe and its finished run, in a process of its own as a user has it."""
    root = tmp_path_factory.mktemp("finished")
    recipe = write_small_recipe(root / "small.yaml", tiny_student, tiny_teacher)
    command = [sys.executable, "-m", "eyas", "run", str(recipe), "--out", str(root / "runs")]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "distilled − Control" in done.stdout
    return recipe, root / "runs" / "small"


def test_a_run_measures_distils_resumes_and_heals(recipe_and_run: tuple[Path, Path]) -> None:
    small_recipe, finished = recipe_and_run
    runs = finished.parent
    summary = json.loads((finished / "summary.json").read_text())
    index = {name: finished / path for name, path in json.loads((finished / "index.json").read_text()).items()}

    # Distillation brings the student closer to the teacher than SFT did, on both kinds of prefixes.
    facts = {
        role: json.loads((index[f"evaluate.{role}"] / "manifest.json").read_text())["facts"]
        for role in ("sft", "distilled")
    }
    for prefix in ("teacher", "student"):
        assert facts["distilled"]["divergence"][prefix]["value"] < facts["sft"]["divergence"][prefix]["value"]
    # The control trained for as many tokens, to within one step.
    tokens = {
        name: json.loads((index[name] / "manifest.json").read_text())["facts"]["tokens"]
        for name in index
        if name in ("control", "distill", "distill.1")
    }
    assert tokens["control"] == pytest.approx(tokens["distill"] + tokens["distill.1"], rel=0.1)
    assert {"base", "sft", "control", "distilled", "teacher"} <= summary["models"].keys()
    assert summary["models"]["distilled"]["accuracy"]["fast"]["n"] == 16
    assert 0 < summary["cache"]["mean_captured_mass"] <= 1

    # The same command again does nothing and changes nothing.
    before = {path: path.stat().st_mtime_ns for path in index["distill"].rglob("*") if path.is_file()}
    again = eyas("run", small_recipe, "--out", runs)
    assert "done in" not in again.stdout
    assert before == {path: path.stat().st_mtime_ns for path in index["distill"].rglob("*") if path.is_file()}
    plan = eyas("plan", small_recipe, "--out", runs).stdout
    assert "to do" not in plan
    assert "320 tokens with the same ids" in plan

    # A corrupt shard is found and redone, and what was made from it stays.
    final = weights(finished)
    (shard,) = shard_paths(index["distill.1.rollout"] / "sequences")
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    healed = eyas("run", small_recipe, "--out", runs).stdout
    assert "distill.1.rollout: done in" in healed
    assert "distill: done in" not in healed
    assert shard.read_bytes() == content
    assert weights(finished) == final

    # Another execution setting redoes nothing; another seed redoes what depends on it.
    same = eyas("run", small_recipe, "--out", runs, "--set", "execution.scoring_batch_size=7")
    assert "done in" not in same.stdout
    other = eyas("plan", small_recipe, "--out", runs, "--set", "seed=1").stdout
    assert "to do" in other

    # A single stage leaves the finished run's index as it was.
    eyas("prepare", small_recipe, "--out", runs)
    assert index == {name: finished / path for name, path in json.loads((finished / "index.json").read_text()).items()}

    # The student talks.
    chat = eyas("chat", finished, "--max-tokens", "8", stdin="12+30\n/fast\n12+30\n/quit\n")
    assert "small, distilled." in chat.stdout
    assert "fast >" in chat.stdout
    assert "small, teacher." in eyas("chat", finished, "--model", "teacher", stdin="/quit\n").stdout
    missing = eyas("chat", finished, "--model", "nobody", check=False)
    assert missing.returncode == 1
    assert "found: base, control, distilled, sft, teacher" in missing.stderr


def test_killed_at_ten_random_moments_the_final_weights_are_bit_equal(
    recipe_and_run: tuple[Path, Path], tmp_path: Path
) -> None:
    small_recipe, finished = recipe_and_run
    manifests = finished.parent.glob("artifacts/*/manifest.json")
    working = sum(json.loads(path.read_text())["seconds"] for path in manifests)
    rng = random.Random(0)
    imported_once = multiprocessing.get_context("forkserver")
    imported_once.set_forkserver_preload(["eyas.console", "eyas.stages.sft", "eyas.stages.distill"])
    workspaces = [tmp_path / "killed-0"]
    kills = 0
    while kills < 10:
        process = imported_once.Process(target=run_quietly, args=(small_recipe, workspaces[-1]))
        process.start()
        wait_for_work(process, workspaces[-1] / "small" / ".holder.json")
        time.sleep(rng.uniform(0.0, working / 5))
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        if process.exitcode == 0:
            workspaces.append(tmp_path / f"killed-{len(workspaces)}")
        kills += process.exitcode == -signal.SIGKILL
    for workspace in workspaces:
        eyas("run", small_recipe, "--out", workspace)
        for role in ("sft", "control", "distilled"):
            assert weights(workspace / "small", role) == weights(finished, role)


def run_quietly(recipe: Path, workspace: Path) -> None:
    eyas("run", recipe, "--out", workspace)


def wait_for_work(process: BaseProcess, holder: Path) -> None:
    """Until the process has imported everything and holds the run's lock."""
    while process.is_alive():
        with contextlib.suppress(OSError, ValueError):
            if json.loads(holder.read_text())["pid"] == process.pid:
                return
        time.sleep(0.05)


def test_two_runs_in_one_directory_the_second_is_told(small_recipe: Path, tmp_path: Path) -> None:
    from eyas.storage.locks import locked

    with locked(tmp_path / "runs" / "small", purpose="run small"):
        done = eyas("run", small_recipe, "--out", tmp_path / "runs", check=False)
    assert done.returncode == 1
    assert f"process {os.getpid()}" in done.stderr


def test_limit_is_a_smoke_run(small_recipe: Path, tmp_path: Path) -> None:
    eyas("run", small_recipe, "--out", tmp_path / "runs", "--limit", "4")
    summary = json.loads((tmp_path / "runs" / "small-limit4" / "summary.json").read_text())
    assert summary["models"]["distilled"]["accuracy"]["fast"]["n"] == 4


def test_a_single_stage_runs_what_it_needs(small_recipe: Path, tmp_path: Path) -> None:
    done = eyas("prepare", small_recipe, "--out", tmp_path / "runs")
    assert "prepare-" in done.stdout
    made = {path.name.split("-")[0] for path in (tmp_path / "runs" / "artifacts").iterdir()}
    assert made == {"model", "prepare"}


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "generation_config.json", "model.safetensors"])
def test_a_damaged_model_is_made_again(small_recipe: Path, tiny_student: Path, tmp_path: Path, name: str) -> None:
    command = ("prepare", small_recipe, "--out", tmp_path / "runs")
    pruned = ("--set", f"student={{from: {tiny_student}, keep_layers: 1}}")
    eyas(*command, *pruned)
    found = (tmp_path / "runs" / "artifacts").glob(f"model-*/model/{name}")
    (file,) = (path for path in found if not path.parent.is_symlink())  # the teacher is linked
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    eyas(*command, *pruned)
    assert file.read_bytes() == whole


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.distill.rollot={}", "RecipeError"),
        ("student=builtin:nano-nobody", "ModelError: builtin:nano-nobody: no such built-in model"),
        ("stages.prepare.source={type: file, path: /nowhere.jsonl}", "DataError: /nowhere.jsonl: cannot be read"),
        ("stages.evaluate.sampling.max_completion_tokens=500", "PairMismatch: a prompt and 500 completion tokens"),
        ("stages.sft.training.max_length=8", "all longer than training.max_length 8"),
        ("stages.sft.training.learning_rate=1.0e+30", "NonFiniteLoss: step"),
    ],
)
def test_each_mistake_is_one_clear_error(small_recipe: Path, tmp_path: Path, override: str, message: str) -> None:
    done = eyas("run", small_recipe, "--out", tmp_path / "runs", "--set", override, check=False)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_lora_is_merged_into_loadable_weights(small_recipe: Path, tiny_student: Path, tmp_path: Path) -> None:
    import torch

    from eyas.storage.models import load_model

    eyas(
        "sft", small_recipe, "--out", tmp_path / "runs", "--name", "sft", "--set", "stages.sft.training.lora={rank: 4}"
    )
    (made,) = (tmp_path / "runs" / "artifacts").glob("sft-*/model")
    before, after = load_model(tiny_student).state_dict(), load_model(made).state_dict()
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert "model.layers.0.self_attn.q_proj.weight" in changed
    assert "model.embed_tokens.weight" not in changed


def test_a_read_only_workspace_says_so(small_recipe: Path) -> None:
    done = eyas("run", small_recipe, "--out", "/proc/nowhere", check=False)
    assert done.returncode == 1
    assert "StorageError: /proc/nowhere/small: cannot be made" in done.stderr
    assert "Choose another directory" in done.stderr


def test_a_pair_that_does_not_fit_is_refused_before_any_work(small_recipe: Path, tmp_path: Path) -> None:
    student = (
        "{config: {model_type: llama, hidden_size: 32, max_position_embeddings: 20}, tokenizer: builtin:tokenizer}"
    )
    done = eyas("run", small_recipe, "--out", tmp_path / "runs", "--set", f"student={student}", check=False)
    assert done.returncode == 1
    assert "PairMismatch: a prompt and 24 completion tokens" in done.stderr
    assert not (tmp_path / "runs" / "artifacts").exists()


def test_a_loss_that_no_sequence_can_carry_is_refused(small_recipe: Path, tmp_path: Path) -> None:
    done = eyas(
        "run", small_recipe, "--out", tmp_path / "runs", "--set", "stages.distill.loss.ce_on=correct", check=False
    )
    assert done.returncode == 1
    assert "none of the 192 sequences has a grade: their prompts have no answer" in done.stderr


def test_init_writes_a_recipe_that_plans(tiny_student: Path, tiny_teacher: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    rows = [{"question": f"{i}+{j}", "answer": f"{i}+{j}={i + j}\n#### {i + j}"} for i in range(20) for j in range(20)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = tmp_path / "mine.yaml"
    done = eyas("init", "--student", tiny_student, "--teacher", tiny_teacher, "--data", data, "--to", recipe)
    assert "Wrote" in done.stdout
    assert "thinking: qwen3" in recipe.read_text()
    plan = eyas("plan", recipe, "--out", tmp_path / "runs").stdout
    assert "distill.2.rollout" in plan
    again = eyas(
        "init", "--student", tiny_student, "--teacher", tiny_teacher, "--data", data, "--to", recipe, check=False
    )
    assert "exists already" in again.stderr
