"""The order that the curriculum decided is the order that the optimiser sees, however the work is cut."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from recording import (
    BATCH,
    EXAMPLES,
    STEPS,
    RecordingTrainer,
    decided,
    examples,
    seen,
    sequence_records,
    train_recorded,
)
from safetensors.torch import load_file

from eyas.storage import training

HERE = Path(__file__).parent
ORDERS = ["shuffle", "easy_to_hard", "hard_to_easy", "competence", "balanced"]


@pytest.fixture
def _recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "EyasTrainer", RecordingTrainer)


def run_python(script: str, *command: str) -> subprocess.CompletedProcess[str]:
    prelude = (
        f"import sys; sys.path.insert(0, {str(HERE)!r})\n"
        "import os, torch; torch.set_num_threads(1)\n"
        "from pathlib import Path\n"
        "from eyas.storage import training\n"
        "import recording as r\n"
        "training.EyasTrainer = r.RecordingTrainer\n"
    )
    path = Path(command[-1])
    path.write_text(prelude + script)
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.usefixtures("_recorded")
@pytest.mark.parametrize("order", ORDERS)
def test_the_optimiser_sees_the_decided_order_in_packed_and_accumulated_micro_batches(
    tiny_student: Path, tmp_path: Path, order: str
) -> None:
    wanted = decided(order)
    for packing in (False, True):
        directory = train_recorded(
            tiny_student, tmp_path / f"packing-{packing}", order=order, packing=packing, micro_batch_size=2
        )
        lines = seen(directory)
        assert [line["step"] for line in lines] == list(range(STEPS))
        assert [examples(line) for line in lines] == wanted
        rows = [row for line in lines for rows in line["passes"] for row in rows]
        assert {len(line["passes"]) for line in lines} == {BATCH // 2}  # three micro-batches accumulated
        assert {len(row) for row in rows} == ({2} if packing else {1})  # sequences that share a row


@pytest.mark.usefixtures("_recorded")
@pytest.mark.parametrize("packing", [False, True])
def test_every_completion_token_carries_its_examples_weight(tiny_student: Path, tmp_path: Path, packing: bool) -> None:
    directory = train_recorded(
        tiny_student, tmp_path, order="competence", weight="frontier", packing=packing, micro_batch_size=2
    )
    # Of example n's eight rollouts n // 3 are right, 0 to 7: p = (n // 3 + 1) / 10, three examples of each.
    wanted = [(right + 1) / 10 * (1 - (right + 1) / 10) for right in range(8)]
    mean = sum(wanted) / 8
    found = [(int(number), given) for line in seen(directory) for number, given in line["weights"].items()]
    assert len({number for number, _ in found}) > EXAMPLES // 2
    for number, given in found:
        assert given == [pytest.approx(wanted[number // 3] / mean)]


@pytest.mark.usefixtures("_recorded")
def test_by_length_the_optimiser_sees_the_shortest_completions_first(tiny_student: Path, tmp_path: Path) -> None:
    first = examples(seen(train_recorded(tiny_student, tmp_path, order="easy_to_hard", signal="length"))[0])
    lengths = [len(record.completion_ids) for record in sequence_records()]
    # Of six sequences four are reasoning, the odd numbers, and two fast.
    for parity, drawn in ((1, 4), (0, 2)):
        assert sorted(lengths[n] for n in first if n % 2 == parity) == sorted(lengths[parity::2])[:drawn]


@pytest.mark.usefixtures("_recorded")
def test_a_killed_training_goes_on_in_the_decided_order(tiny_student: Path, tmp_path: Path) -> None:
    script = (
        "r.RecordingTrainer.kill_at = 5\n"
        f"r.train_recorded(Path({str(tiny_student)!r}), Path({str(tmp_path)!r}), order='competence')\n"
    )
    done = run_python(script, str(tmp_path / "killed.py"))
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    wanted = decided("competence")
    killed = seen(tmp_path / "sft")
    assert [examples(line) for line in killed] == wanted[:5]
    directory = train_recorded(tiny_student, tmp_path, order="competence")
    resumed = seen(directory)[len(killed) :]
    assert [line["step"] for line in resumed] == list(range(4, STEPS))  # from the checkpoint after four steps
    assert [examples(line) for line in resumed] == wanted[4:]
    whole = train_recorded(tiny_student, tmp_path / "whole", order="competence")
    weights, uninterrupted = (load_file(made / "model" / "model.safetensors") for made in (directory, whole))
    assert all(torch.equal(weights[name], value) for name, value in uninterrupted.items())


def test_two_processes_share_each_step_of_the_decided_order(tiny_student: Path, tmp_path: Path) -> None:
    script = (
        "from eyas.recipe import CurriculumSpec, ExecutionSpec, LossSpec, TrainingSpec\n"
        "from eyas.storage.artifacts import StageClock\n"
        "from eyas.storage.backbone import attach_loss\n"
        "from eyas.storage.batches import StepLoader, TrainingItem\n"
        "from eyas.storage.context import SilentProgress\n"
        "from eyas.storage.models import load_model\n"
        f"model = load_model(Path({str(tiny_student)!r}))\n"
        "attach_loss(model, LossSpec(kd_weight=0.0))\n"
        "order = [index for step in r.decided('balanced') for index in step.elements()]\n"
        "spec = TrainingSpec(batch_size=r.BATCH)\n"
        "loader = StepLoader([TrainingItem(made) for made in r.sequence_records()], order, training=spec,\n"
        "    micro_batch_size=2, pad_id=0, packed=True, rank=int(os.environ['RANK']), world_size=2)\n"
        f"directory = Path({str(tmp_path)!r})\n"
        "training.train(model, loader, training=spec, execution=ExecutionSpec(device='cpu', trackers=()),\n"
        "    directory=directory, clock=StageClock(directory), progress=SilentProgress())\n"
    )
    run = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", str(tmp_path / "rank.py")]
    done = run_python(script, *run)
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [[examples(line) for line in seen(tmp_path, rank=rank)] for rank in (0, 1)]
    assert all(sum(mine.values()) == BATCH - sum(other.values()) > 0 for mine, other in zip(*ranks, strict=True))
    assert [sum(parts, Counter[int]()) for parts in zip(*ranks, strict=True)] == decided("balanced")
