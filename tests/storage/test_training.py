"""Training: the same weights however the work is cut, interrupted or spread; and no update after a NaN."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from eyas.errors import NonFiniteLoss, OutOfMemory, StorageError
from eyas.recipe import ExecutionSpec, LossSpec, TrainingSpec
from eyas.records import SequenceRecord
from eyas.storage import checkpoints
from eyas.storage.artifacts import StageClock
from eyas.storage.backbone import attach_loss
from eyas.storage.batches import StepLoader, TrainingItem
from eyas.storage.context import SilentProgress
from eyas.storage.models import load_model
from eyas.storage.scores import TeacherScores
from eyas.storage.training import train

HERE = Path(__file__).parent


def items(count: int = 24, *, vocabulary: int = 300) -> list[TrainingItem]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for number in range(count):
        prompt = torch.randint(5, vocabulary, (3 + number % 3,), generator=generator).tolist()
        completion = torch.randint(5, vocabulary, (2 + number % 4,), generator=generator).tolist()
        record = SequenceRecord(
            example_id=str(number), sample=0, mode="fast", source="student", prompt_ids=prompt,
            completion_ids=completion, finish_reason="stop",
        )  # fmt: skip
        ids = torch.stack([torch.randperm(vocabulary, generator=generator)[:3] for _ in completion]).numpy()
        logprobs = torch.log_softmax(torch.randn(len(completion), 4, generator=generator), -1).numpy()
        scores = TeacherScores.from_top_k(
            record.token_hash, ids, logprobs[:, :3], logprobs[:, 3], np.zeros(len(completion)), mass=1.0
        )
        made.append(TrainingItem(record, scores=scores, weight=0.25 + number % 4 / 2))
    return made


def trained(
    path: Path,
    directory: Path,
    *,
    steps: int = 6,
    micro_batch_size: int = 8,
    checkpoint_every: int = 2,
    rank: int = 0,
    world_size: int = 1,
    learning_rate: float = 1e-2,
    device: str = "cpu",
    dtype: str = "float32",
) -> dict[str, torch.Tensor]:
    model = load_model(path)
    attach_loss(model, LossSpec())
    training = TrainingSpec(batch_size=8, learning_rate=learning_rate, warmup=0.0)
    order = [(step * 8 + i) % 24 for step in range(steps) for i in range(8)]
    loader = StepLoader(
        items(), order, training=training, micro_batch_size=micro_batch_size, pad_id=0, rank=rank, world_size=world_size
    )
    execution = ExecutionSpec(checkpoint_every=checkpoint_every, device=device, trackers=())
    directory.mkdir(parents=True, exist_ok=True)
    train(
        model, loader, training=training, execution=execution, directory=directory, clock=StageClock(directory),
        progress=SilentProgress(), dtype=dtype,
    )  # fmt: skip
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], *, exact: bool) -> None:
    for name, value in a.items():
        if exact:
            assert torch.equal(value, b[name]), name
        else:
            torch.testing.assert_close(value, b[name], rtol=1e-3, atol=2e-5)


def test_micro_batches_do_not_change_the_weights(tiny_student: Path, tmp_path: Path) -> None:
    whole = trained(tiny_student, tmp_path / "a", micro_batch_size=8)
    cut = trained(tiny_student, tmp_path / "b", micro_batch_size=3)
    assert_same(whole, cut, exact=False)


def test_a_step_is_the_weighted_sum_over_tokens_over_their_number(tiny_student: Path, tmp_path: Path) -> None:
    """L = (1/N) Σ_t w_x CE(y_t), one sequence at a time: N counts tokens, not their weights."""
    made, model = items()[:8], load_model(tiny_student)
    total, tokens = torch.zeros(()), sum(len(item.sequence.completion_ids) for item in made)
    for item in made:
        prompt, completion = item.sequence.prompt_ids, item.sequence.completion_ids
        logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        nll = torch.nn.functional.cross_entropy(logits, torch.tensor(completion), reduction="sum")
        total = total + item.weight * nll / tokens
    total.backward()
    norm = torch.stack([weight.grad.norm() for weight in model.parameters() if weight.grad is not None]).norm()

    trained = load_model(tiny_student)
    attach_loss(trained, LossSpec(kd_weight=0.0))
    training = TrainingSpec(batch_size=8)
    loader = StepLoader(made, list(range(8)), training=training, micro_batch_size=3, pad_id=0)
    (log,) = train(
        trained, loader, training=training, execution=ExecutionSpec(device="cpu", trackers=()), directory=tmp_path,
        clock=StageClock(tmp_path), progress=SilentProgress(),
    ).log  # fmt: skip
    assert log["loss"] == pytest.approx(total.item(), rel=1e-4)
    assert log["grad_norm"] == pytest.approx(norm.item(), rel=1e-3)


def test_a_killed_run_resumes_to_the_same_bits(tiny_student: Path, tmp_path: Path) -> None:
    whole = trained(tiny_student, tmp_path / "whole")
    script = (
        f"import sys; sys.path.insert(0, {str(HERE)!r})\n"
        "import os, torch; torch.set_num_threads(1)\n"
        "from pathlib import Path\n"
        "import test_training as t\n"
        "from eyas.storage import training\n"
        "class Killer(training.EyasTrainer):\n"
        "    def training_step(self, *args, **kwargs):\n"
        "        if self.state.global_step == 5: os.kill(os.getpid(), 9)\n"
        "        return super().training_step(*args, **kwargs)\n"
        "training.EyasTrainer = Killer\n"
        f"t.trained(Path({str(tiny_student)!r}), Path({str(tmp_path / 'killed')!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert checkpoints.latest_valid(tmp_path / "killed" / "checkpoints") is not None
    assert_same(whole, trained(tiny_student, tmp_path / "killed"), exact=True)


@pytest.mark.parametrize("damage", ["half written", "flipped", "draft"])
def test_a_damaged_newest_checkpoint_is_skipped(tiny_student: Path, tmp_path: Path, damage: str) -> None:
    whole = trained(tiny_student, tmp_path / "a")
    root = tmp_path / "a" / "checkpoints"
    newest = sorted(root.glob("step-*"))[-1]
    weights = next(newest.rglob("model.safetensors"))
    if damage == "half written":
        weights.write_bytes(weights.read_bytes()[:100])
    elif damage == "flipped":
        content = bytearray(weights.read_bytes())
        content[-3] ^= 1
        weights.write_bytes(content)
    else:
        newest.rename(root / ".step-6.tmp")
    found = checkpoints.latest_valid(root)
    assert found is not None
    assert found.name == "step-00000004"
    assert_same(whole, trained(tiny_student, tmp_path / "a"), exact=True)


def test_no_pickle_but_the_trainers_private_state(tiny_student: Path, tmp_path: Path) -> None:
    trained(tiny_student, tmp_path / "a")
    names = {path.name for path in (tmp_path / "a" / "checkpoints").rglob("*") if path.is_file()}
    assert "training_args.bin" not in names
    assert "model.safetensors" in names


def test_a_nan_loss_stops_before_the_update(tiny_student: Path, tmp_path: Path) -> None:
    model = load_model(tiny_student)
    attach_loss(model, LossSpec())
    with torch.no_grad():
        next(model.parameters())[7] = float("nan")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loader = StepLoader(
        items(vocabulary=8), list(range(8)), training=TrainingSpec(batch_size=8), micro_batch_size=8, pad_id=0
    )
    with pytest.raises(NonFiniteLoss, match=r"step 1: the loss is nan.*Lower training.learning_rate"):
        train(
            model, loader, training=TrainingSpec(batch_size=8), execution=ExecutionSpec(device="cpu", trackers=()),
            directory=tmp_path, clock=StageClock(tmp_path), progress=SilentProgress(),
        )  # fmt: skip
    for name, value in model.state_dict().items():
        assert torch.equal(value.nan_to_num(), before[name].nan_to_num()), name


@pytest.mark.skipif(torch.cuda.is_available(), reason="auto is a CPU only where there is nothing else")
def test_bfloat16_trains_on_a_machine_without_accelerator(tiny_student: Path, tmp_path: Path) -> None:
    found = trained(tiny_student, tmp_path / "auto", device="auto", dtype="bfloat16")
    assert_same(found, trained(tiny_student, tmp_path / "cpu", dtype="bfloat16"), exact=True)


def gpu_is_full(*_: object, **__: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


def cpu_is_full(*_: object, **__: object) -> None:
    torch.empty(2**50)


@pytest.mark.parametrize("full", [gpu_is_full, cpu_is_full])
def test_out_of_memory_names_the_setting_to_lower(
    tiny_student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: Callable[..., None]
) -> None:
    monkeypatch.setattr("eyas.storage.backbone.completion_loss", full)
    with pytest.raises(OutOfMemory, match=r"lower execution.micro_batch_size"):
        trained(tiny_student, tmp_path)


def test_other_errors_of_the_loss_are_not_called_out_of_memory(
    tiny_student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def validation_is_full(*_: object, **__: object) -> None:
        raise OutOfMemory("lower execution.generation_batch_size")

    monkeypatch.setattr("eyas.storage.backbone.completion_loss", validation_is_full)
    with pytest.raises(OutOfMemory, match=r"^lower execution.generation_batch_size$"):
        trained(tiny_student, tmp_path)


def test_a_checkpoint_that_torch_cannot_write_is_one_clear_error(
    tiny_student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")

    monkeypatch.setattr("torch.save", full)
    with pytest.raises(StorageError, match="If the disk is full, free some space"):
        trained(tiny_student, tmp_path)


def test_two_processes_equal_one(tiny_student: Path, tmp_path: Path) -> None:
    one = trained(tiny_student, tmp_path / "one", micro_batch_size=3)
    script = tmp_path / "rank.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(HERE)!r})\n"
        "import os, torch; torch.set_num_threads(1)\n"
        "from pathlib import Path\n"
        "from safetensors.torch import save_file\n"
        "import test_training as t\n"
        "rank = int(os.environ['RANK'])\n"
        f"weights = t.trained(Path({str(tiny_student)!r}), Path({str(tmp_path / 'two')!r}), micro_batch_size=3,\n"
        "    rank=rank, world_size=2, checkpoint_every=100)\n"
        f"save_file({{k: v.clone() for k, v in weights.items()}}, {str(tmp_path)!r} + f'/rank{{rank}}.safetensors')\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", str(script)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in (0, 1):
        assert_same(one, load_file(tmp_path / f"rank{rank}.safetensors"), exact=False)
