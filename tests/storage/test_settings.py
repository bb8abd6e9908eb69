"""What `auto` chooses is measured once, written down, and kept; what fails to compile trains without."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from test_attention import PACKABLE, UNPACKABLE, model_of
from transformers import PreTrainedModel

from eyas.errors import OutOfMemory, TrainingError
from eyas.recipe import ExecutionSpec, LossSpec, TrainingSpec
from eyas.records import SequenceRecord
from eyas.storage import probe, settings
from eyas.storage.artifacts import read_json, write_json
from eyas.storage.backbone import attach_loss
from eyas.storage.batches import StepLoader, TrainingItem
from eyas.storage.probe import fewest_fast_threads, remembered, seconds_by_threads, thread_counts
from eyas.storage.settings import FILE, Settings, choose_packing, choose_settings

AUTO = ExecutionSpec(threads="auto", precision="auto")


@pytest.fixture(autouse=True)
def _own_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def items(count: int = 6, *, lengths: int = 4) -> list[TrainingItem]:
    return [
        TrainingItem(
            SequenceRecord(
                example_id=str(number), sample=0, mode="fast", source="label", prompt_ids=[5, 6, 7 + number],
                completion_ids=list(range(10, 10 + lengths + number)), finish_reason="stop",
            )
        )
        for number in range(count)
    ]  # fmt: skip


def packing(model: PreTrainedModel, directory: Path, *, asked: Any = "auto") -> dict[str, Any]:
    return choose_packing(
        model, items(), list(range(6)), training=TrainingSpec(packing=asked), dtype="float32", directory=directory,
        execution=ExecutionSpec(micro_batch_size=6),
    )  # fmt: skip


def choose(
    directory: Path,
    *,
    execution: ExecutionSpec,
    dtype: str = "float32",
    packed: bool = True,
    passes: int = 100,
    lengths: int = 4,
) -> tuple[Settings, dict[str, Any]]:
    model = model_of("llama", PACKABLE["llama"])
    attach_loss(model, LossSpec(kd_weight=0.0))
    loader = StepLoader(
        items(lengths=lengths), list(range(6)), training=TrainingSpec(batch_size=6), micro_batch_size=3, pad_id=0,
        packed=packed,
    )  # fmt: skip
    return choose_settings(
        model, loader.step(0).micro_batches, execution=execution, dtype=dtype, passes=passes, directory=directory,
        compile_model=lambda on: attach_loss(model, LossSpec(kd_weight=0.0), compiled=on),
    )  # fmt: skip


def test_packing_is_chosen_where_the_model_can_and_padding_where_it_cannot(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "packing_gain", lambda *_, **__: 1.0)
    can = packing(model_of("llama", PACKABLE["llama"]), tmp_path / "a")
    assert can["packed"] is True
    cannot = packing(model_of("lfm2", UNPACKABLE["lfm2"]), tmp_path / "b")
    assert cannot["packed"] is False
    assert "differs from its sequences alone" in cannot["reason"]
    assert "sequences are padded, not packed" in caplog.text
    assert read_json(tmp_path / "b" / FILE) == {"packing": cannot}


def test_packing_true_is_an_error_where_the_model_cannot(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"packing is true, but a packed row differs .* Set it to auto or false"):
        packing(model_of("lfm2", UNPACKABLE["lfm2"]), tmp_path, asked=True)
    assert packing(model_of("lfm2", UNPACKABLE["lfm2"]), tmp_path, asked=False)["packed"] is False


def test_a_tiny_model_is_padded_without_a_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("llama", PACKABLE["llama"])
    monkeypatch.setattr(settings, "probe_packing", never)
    chosen = packing(model, tmp_path)
    assert chosen["packed"] is False
    assert "padding costs less: by " in chosen["reason"]
    assert packing(model, tmp_path) == chosen


def test_packing_is_tried_once_a_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("llama", PACKABLE["llama"])
    first = packing(model, tmp_path, asked=True)
    assert first["packed"] is True
    monkeypatch.setattr(settings, "probe_packing", never)
    assert packing(model, tmp_path, asked=True) == first


def test_without_flash_attention_an_accelerator_pads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "packed_implementation", lambda *_: None)
    monkeypatch.setattr(settings, "packing_gain", lambda *_, **__: 1.0)
    chosen = packing(model_of("llama", PACKABLE["llama"]), tmp_path)
    assert chosen["packed"] is False
    assert "no flash attention" in chosen["reason"]


def test_a_choice_of_packing_made_on_another_device_or_for_another_answer_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "packing_gain", lambda *_, **__: 1.0)
    model = model_of("llama", PACKABLE["llama"])
    padded = {"packed": False, "reason": "no flash attention", "difference": None, "device": "cuda"}
    write_json(tmp_path / FILE, {"packing": padded})
    assert packing(model, tmp_path)["packed"] is True
    write_json(tmp_path / FILE, {"packing": padded | {"device": "cpu"}})
    assert packing(model, tmp_path)["packed"] is False
    assert packing(model, tmp_path, asked=True)["packed"] is True


def never(*_: object, **__: object) -> Any:
    raise AssertionError("measured again")


def test_the_defaults_measure_and_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "remembered", never)
    chosen, _ = choose(tmp_path, execution=ExecutionSpec())
    assert chosen == Settings(threads=probe.core_count(), precision="float32", compile=False)
    assert choose(tmp_path, execution=ExecutionSpec(), dtype="bfloat16")[0].precision == "bfloat16"
    assert not list(tmp_path.iterdir())


def test_what_auto_chose_is_written_once_and_kept_whatever_would_be_measured_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, facts = choose(tmp_path, execution=AUTO)
    assert chosen.threads in thread_counts()
    assert set(facts["measured"]["seconds_by_threads"]) == {str(count) for count in thread_counts()}
    monkeypatch.setattr(settings, "remembered", never)
    assert choose(tmp_path, execution=AUTO) == (chosen, facts)


def test_another_workspace_on_the_same_machine_chooses_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = choose(tmp_path / "a", execution=AUTO)
    monkeypatch.setattr(settings, "_measure", never)
    assert choose(tmp_path / "b", execution=AUTO, passes=101) == chosen
    assert choose(tmp_path / "b2", execution=AUTO, lengths=5) == chosen
    with pytest.raises(AssertionError, match="measured again"):
        choose(tmp_path / "c", execution=AUTO, lengths=40)


def test_what_the_recipe_says_is_taken_even_against_an_earlier_choice(tmp_path: Path) -> None:
    choose(tmp_path, execution=AUTO)
    chosen, _ = choose(tmp_path, execution=ExecutionSpec(threads=7, precision="bfloat16"))
    assert chosen == Settings(threads=7, precision="bfloat16", compile=False)


def test_a_field_newly_left_to_auto_is_measured_and_the_others_are_kept(tmp_path: Path) -> None:
    write_json(tmp_path / FILE, {"settings": {"threads": 17, "measured": {"a": 1}}})
    chosen, facts = choose(tmp_path, execution=AUTO.model_copy(update={"compile": "auto"}))
    assert chosen.threads == 17
    assert "seconds_eager" in facts["measured"]
    assert "seconds_by_threads" not in facts["measured"]
    chosen, _ = choose(tmp_path, execution=ExecutionSpec(precision="auto"))
    assert chosen.threads == probe.core_count()


def test_a_short_stage_tries_neither_threads_nor_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "remembered", never)
    chosen, facts = choose(tmp_path, execution=AUTO, passes=10)
    assert chosen == Settings(threads=probe.core_count(), precision="float32", compile=False)
    assert facts["measured"] == {"too_short_to_try": ["threads", "precision"]}
    assert choose(tmp_path, execution=AUTO, passes=1000)[0] == chosen


def test_compilation_is_tried_with_the_threads_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(settings, "_compile_error", lambda *_: seen.append(torch.get_num_threads()))
    choose(tmp_path, execution=ExecutionSpec(threads=3, compile=True))
    assert seen == [3]


def test_memory_that_runs_out_in_a_trial_names_the_setting_to_lower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eyas.storage.backbone.completion_loss", full)
    with pytest.raises(OutOfMemory, match=r"lower execution.micro_batch_size"):
        choose(tmp_path, execution=AUTO)
    monkeypatch.setattr(torch, "compile", lambda decoder, **_: decoder)
    with pytest.raises(OutOfMemory, match=r"lower execution.micro_batch_size"):
        choose(tmp_path, execution=ExecutionSpec(compile=True))


def test_memory_that_runs_out_while_packing_is_tried_names_the_setting_to_lower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "hidden_states", full)
    with pytest.raises(OutOfMemory, match=r"lower execution.micro_batch_size"):
        packing(model_of("llama", PACKABLE["llama"]), tmp_path, asked=True)


def full(*_: object, **__: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(
    ("speed", "difference", "fast", "expected"),
    [(2.0, 0.0, True, "bfloat16"), (1.05, 0.0, True, "float32"), (2.0, 0.02, True, "float32"),
     (2.0, 0.0, False, "float32")],
)  # fmt: skip
def test_bfloat16_needs_hardware_a_gain_and_the_same_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speed: float, difference: float, fast: bool, expected: str
) -> None:
    seconds = iter([speed, 1.0])
    monkeypatch.setattr(settings, "has_fast_bfloat16", lambda: fast)
    monkeypatch.setattr(settings, "best_seconds", lambda _: next(seconds))
    monkeypatch.setattr(settings.Trial, "loss", lambda _, precision: 1.0 + difference * (precision == "bfloat16"))
    assert choose(tmp_path, execution=ExecutionSpec(precision="auto"))[0].precision == expected


def test_a_trial_leaves_weights_gradients_and_random_streams_alone(tmp_path: Path) -> None:
    model = model_of("llama", PACKABLE["llama"])
    attach_loss(model, LossSpec(kd_weight=0.0))
    before = [value.clone() for value in model.parameters()]
    state = torch.get_rng_state()
    loader = StepLoader(items(), list(range(6)), training=TrainingSpec(batch_size=6), micro_batch_size=3, pad_id=0)
    assert settings.Trial(model, loader.step(0).micro_batches, ExecutionSpec()).loss("bfloat16") > 0
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(value.grad is None for value in model.parameters())
    assert torch.equal(state, torch.get_rng_state())


def test_the_fewest_threads_that_are_as_fast_are_taken() -> None:
    assert fewest_fast_threads({1: 1.02, 2: 1.0, 4: 1.5}) == 1
    assert fewest_fast_threads({1: 2.0, 2: 1.0, 4: 0.99}) == 2


def test_threads_are_timed_and_put_back() -> None:
    before, seen = torch.get_num_threads(), []
    found = seconds_by_threads(lambda: seen.append(torch.get_num_threads()), counts=[1, 2], repeats=2)
    assert set(found) == {1, 2}
    assert seen == [1, 1, 1, 2, 2, 2]
    assert torch.get_num_threads() == before


def test_a_memory_that_is_damaged_or_not_writable_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert remembered({"a": 1}, lambda: {"threads": 3}) == {"threads": 3}
    assert remembered({"a": 1}, never) == {"threads": 3}
    for path in (tmp_path / "cache").rglob("*.json"):
        path.write_text("{")
    assert remembered({"a": 1}, lambda: {"threads": 4}) == {"threads": 4}
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert remembered({"a": 1}, lambda: {"threads": 5}) == {"threads": 5}


def test_a_user_without_a_home_measures_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert remembered({"a": 1}, lambda: {"threads": 3}) == {"threads": 3}


def test_two_runs_at_once_choose_the_same() -> None:
    both = threading.Barrier(2)

    def run(number: int) -> dict[str, Any]:
        def measure() -> dict[str, Any]:
            time.sleep(0.3)
            return {"threads": number}

        both.wait()
        return remembered({"a": 1}, measure)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(run, (1, 2))
    assert first == second


COMPILING = """
import sys, warnings; sys.path.insert(0, {tests!r})
import test_settings as t
from pathlib import Path
from eyas.recipe import ExecutionSpec
chosen, facts = t.choose(Path({directory!r}), execution=ExecutionSpec(compile={asked!r}), packed={packed}, passes=10**9)
print(chosen.compile, facts.get("compile_failed") or facts["measured"].get("compile_failed"))
"""


@pytest.mark.parametrize("asked", [True, "auto"])
def test_without_a_compiler_training_goes_on_uncompiled_and_says_so(tmp_path: Path, asked: bool | str) -> None:
    code = COMPILING.format(tests=str(Path(__file__).parent), directory=str(tmp_path), asked=asked, packed=True)
    env = os.environ | {"CXX": "/nonexistent/c++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    compiled, _, reason = done.stdout.strip().partition(" ")
    assert compiled == "False"
    assert reason not in ("", "None")
    assert "torch.compile failed, training goes on without it" in done.stderr


def test_compiled_training_computes_the_same_loss(tmp_path: Path) -> None:
    code = COMPILING.format(tests=str(Path(__file__).parent), directory=str(tmp_path), asked=True, packed=True)
    code += (
        "model = t.model_of('llama', t.PACKABLE['llama'])\n"
        "loader = t.StepLoader(t.items(), list(range(6)), training=t.TrainingSpec(batch_size=6), micro_batch_size=3,"
        " pad_id=0, packed=True)\n"
        "losses = []\n"
        "for compiled in (False, True):\n"
        "    t.attach_loss(model, t.LossSpec(kd_weight=0.0), compiled=compiled)\n"
        "    losses.append(t.settings.Trial(model, loader.step(0).micro_batches, t.ExecutionSpec()).loss('float32'))\n"
        "print(abs(losses[1] - losses[0]) / losses[0] < 1e-5)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == ["True None", "True"]


def test_a_short_stage_does_not_try_to_compile(tmp_path: Path) -> None:
    chosen, facts = choose(tmp_path, execution=ExecutionSpec(compile="auto"), passes=3)
    assert not chosen.compile
    assert set(facts["measured"]) == {"seconds_eager"}
