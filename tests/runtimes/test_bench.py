"""Exported files measured beside one another, in real processes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from static_models import make_model

from eyas.builtin import DIRECTORY
from eyas.errors import BenchError, DataError, ModelError, RecipeError
from eyas.export.converter import Converter
from eyas.export.gguf import export_gguf
from eyas.export.onnx import export_onnx
from eyas.export.ort_genai import export_ort_genai
from eyas.recipe import ModelSpec
from eyas.runtimes import bench, bench_process
from eyas.runtimes.bench import BenchSettings, bench_files, bench_rounds, prompt_of, thread_counts
from eyas.runtimes.bench_child import peak_rss_bytes
from eyas.runtimes.bench_process import CHILD
from eyas.runtimes.facts import file_facts
from eyas.runtimes.measurement import FIGURES, Measurement
from eyas.storage.gguf import read_gguf_head
from eyas.storage.models import materialise

SHORT = BenchSettings(prompt_tokens=12, completion_tokens=6, warmup=0, repeats=2, rounds=2, threads=1)


@pytest.fixture(autouse=True, scope="module")
def _known_bandwidth() -> object:
    """Measuring it takes seconds and 512 MiB; it is tested by itself."""
    patch = pytest.MonkeyPatch()
    patch.setattr(bench, "read_bandwidth", lambda: 1e10)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def nano_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`builtin:nano-student` as graphs of 1 and 16 tokens over 32 slots."""
    out = tmp_path_factory.mktemp("onnx") / "nano-onnx"
    export_onnx(DIRECTORY / "nano-student", out=out, context_length=32, prefill_lengths=(16,))
    return out


@pytest.fixture(scope="module")
def measured(nano_gguf: Path, nano_onnx: Path) -> tuple[Measurement, ...]:
    """Both formats in one call."""
    return bench_files([nano_gguf, nano_onnx], settings=replace(SHORT, prompt_tokens=60, completion_tokens=20))


def test_all_files_do_the_same_work_cut_to_the_smallest_context(measured: tuple[Measurement, ...]) -> None:
    assert [one.file.format for one in measured] == ["GGUF", "ONNX"]
    assert [one.runtime for one in measured] == ["xllamacpp", "onnxruntime"]
    for one in measured:  # 80 tokens into 32 slots: 20 * 32 // 80 = 8 and the rest
        assert (one.prompt_tokens, one.completion_tokens) == (24, 8)
        assert [len(each.generations) for each in one.rounds] == [2, 2]
        assert all(len(made.decode_s) == 7 for each in one.rounds for made in each.generations)
    assert measured[0].context_length >= 32
    assert measured[1].context_length == 32


def test_every_figure_is_positive_and_the_library_s_time_is_part_of_the_whole(
    measured: tuple[Measurement, ...],
) -> None:
    for one in measured:
        for name in set(FIGURES) - {"energy_j_per_token"}:
            figure = getattr(one, name)
            assert len(figure.rounds) == 2
            assert 0 < figure.low <= figure.value <= figure.high, name
        assert one.host_share.high < 1
        assert one.itl_s.p50 <= one.itl_s.p90 <= one.itl_s.p99


def test_what_is_measured_survives_json(measured: tuple[Measurement, ...]) -> None:
    kept = json.loads(json.dumps(measured[0].as_dict()))
    assert kept["tpot_s"]["value"] == measured[0].tpot_s.value
    assert kept["file"]["path"] == str(measured[0].file.path)
    assert kept["rounds"][1]["generations"][0]["prefill_s"] == measured[0].rounds[1].generations[0].prefill_s


def test_peak_memory_is_the_child_s_and_grows_with_the_file(
    nano_gguf: Path, gguf_converter: Converter, tmp_path: Path
) -> None:
    config = {"model_type": "llama", "num_attention_heads": 8, "tie_word_embeddings": True}
    config |= {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 5, "max_position_embeddings": 128}
    materialise(ModelSpec.model_validate({"config": config, "tokenizer": "builtin:tokenizer"}), tmp_path, seed=0)
    large = export_gguf(tmp_path / "model", out=tmp_path / "large.gguf", converter=gguf_converter).files[0]
    a, b = bench_files([nano_gguf, large], settings=replace(SHORT, rounds=1))
    more_bytes = b.file.bytes - a.file.bytes  # 5 layers of 4 * 512^2 + 3 * 512 * 2048 numbers of two bytes: 42 MB
    assert more_bytes > 40e6
    assert 0.9 * more_bytes < b.peak_rss_bytes.value - a.peak_rss_bytes.value < 2 * more_bytes
    assert a.start_rss_bytes.value < a.peak_rss_bytes.value < 150e6 < peak_rss_bytes()  # this process holds torch


def test_threads_are_swept_and_the_fastest_is_taken(nano_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "core_count", lambda: 2)
    (one,) = bench_files([nano_gguf], settings=replace(SHORT, threads=None, rounds=1))
    assert set(one.sweep_tpot_s) == {1, 2}
    assert one.sweep_tpot_s[one.threads] == min(one.sweep_tpot_s.values())
    assert thread_counts(8) == (1, 4, 8)
    assert thread_counts(1) == (1,)


def test_rounds_alternate_and_every_whole_one_is_handed_over(nano_gguf: Path, nano_onnx: Path) -> None:
    said: list[str] = []
    stream = bench_rounds([nano_gguf, nano_onnx], settings=SHORT, progress=lambda what, _done, _of: said.append(what))
    after_one = next(stream)
    assert [len(one.rounds) for one in after_one] == [1, 1]
    (after_two,) = stream
    assert [one.rounds[0] for one in after_two] == [one.rounds[0] for one in after_one]
    first, second = f"{nano_gguf.name}: round", f"{nano_onnx.name}: round"
    starts = [what.split(" of ")[0] for what in said[:4]]
    assert starts == [f"{first} 1", f"{second} 1", f"{second} 2", f"{first} 2"]


def test_the_prompt_is_the_caller_s_or_drawn_alike_for_all(nano_gguf: Path) -> None:
    drawn = prompt_of(SHORT, vocabulary=100)
    assert drawn == prompt_of(SHORT, vocabulary=100)
    assert len(drawn) == 12
    assert 0 <= min(drawn) <= max(drawn) < 100
    assert prompt_of(replace(SHORT, prompt_ids=tuple(range(20))), vocabulary=20) == tuple(range(12))
    with pytest.raises(DataError, match="ids from 5 to 99, the smallest vocabulary of the files has 50"):
        prompt_of(replace(SHORT, prompt_ids=(5, 99)), vocabulary=50)
    (one,) = bench_files([nano_gguf], settings=replace(SHORT, prompt_ids=(5, 6, 7), rounds=1))
    assert one.prompt_tokens == 3


def test_a_killed_child_is_one_error_with_its_last_words(nano_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dying = "import os, sys; print('mapping the weights', file=sys.stderr, flush=True); os.kill(os.getpid(), 9)"
    monkeypatch.setattr(bench_process, "CHILD", ("-c", dying))
    with pytest.raises(BenchError, match=r"nano\.gguf: .* ended by signal 9; .* It said last: mapping the weights$"):
        bench_files([nano_gguf], settings=SHORT)


def test_a_damaged_file_is_one_error(nano_gguf: Path, nano_onnx: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.gguf"
    short.write_bytes(nano_gguf.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="damaged GGUF"):
        bench_files([nano_gguf, short], settings=SHORT)
    other = tmp_path / "other"
    shutil.copytree(nano_onnx, other)
    weights = bytearray((other / "weights.bin").read_bytes())
    weights[5000] ^= 1
    (other / "weights.bin").write_bytes(weights)
    with pytest.raises(BenchError, match=r"cannot be measured. CorruptArtifact: .*weights\.bin: its content is not"):
        bench_files([other], settings=SHORT)
    with pytest.raises(ModelError, match="found nothing there"):
        bench_files([tmp_path / "none.gguf"], settings=SHORT)
    with pytest.raises(RecipeError, match="no files"):
        bench_files([], settings=SHORT)
    with pytest.raises(RecipeError, match="completion_tokens is 1, expected at least 2"):
        replace(SHORT, completion_tokens=1)


def test_a_killed_measurement_leaves_no_child_that_disturbs_the_next(nano_gguf: Path) -> None:
    request = {
        "path": str(nano_gguf), "soc": None, "threads": 1, "context_length": 256, "prompt_ids": [5] * 100,
        "completion_tokens": 100, "warmup": 0, "repeats": 100_000,
    }  # fmt: skip
    parent = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, *{CHILD!r}], stdin=subprocess.PIPE, text=True)
child.stdin.write({json.dumps(json.dumps(request))}); child.stdin.close()
print(child.pid, flush=True)
child.wait()
"""
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = Path("/proc") / process.stdout.readline().strip()
        until = time.monotonic() + 30
        while nano_gguf.name not in _maps(child) and time.monotonic() < until:  # it is at work
            time.sleep(0.05)
        process.kill()
    until = time.monotonic() + 30
    while _alive(child) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _alive(child)


def _maps(process: Path) -> str:
    try:
        return (process / "maps").read_text()
    except OSError:
        return ""


def _alive(process: Path) -> bool:
    try:
        return "\nState:\tZ" not in (process / "status").read_text()
    except OSError:
        return False


def test_the_child_loads_no_torch() -> None:
    code = "import sys, eyas.runtimes.bench_child; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_facts_of_a_gguf_are_those_of_its_tensors(nano_gguf: Path) -> None:
    facts, head = file_facts(nano_gguf), read_gguf_head(nano_gguf)
    assert (facts.quantisation, facts.bytes, facts.parameters) == ("F16", nano_gguf.stat().st_size, head.parameters)
    config = json.loads((DIRECTORY / "nano-student" / "config.json").read_text())
    assert facts.context_length == config["max_position_embeddings"]
    heads, kept = config["num_attention_heads"], config["num_key_value_heads"]
    numbers = 2 * config["num_hidden_layers"] * kept * (config["hidden_size"] // heads)
    assert facts.kv_bytes_per_token == 4 * numbers  # keys and values of every layer, in F32: its heads are narrow
    assert facts.read_bytes == sum(tensor.bytes for tensor in head.tensors)  # tied: the embeddings are the head


def test_of_a_mixture_of_experts_a_token_reads_those_that_it_is_sent_to(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "moe.gguf", "qwen3moe")
    writer.add_token_list(["a", "b"])
    for key, value in {"block_count": 1, "attention.head_count": 1, "embedding_length": 32, "context_length": 64,
                       "expert_count": 8, "expert_used_count": 2}.items():  # fmt: skip
        writer.add_uint32(f"qwen3moe.{key}", value)
    for name, shape in {
        "token_embd.weight": (2, 32), "output.weight": (2, 32), "blk.0.ffn_gate_inp.weight": (8, 32),
        "blk.0.ffn_up_exps.weight": (8, 16, 32), "blk.0.ffn_up_shexp.weight": (16, 32),
    }.items():  # fmt: skip
        writer.add_tensor(name, np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    # The head, the router, 2 of 8 experts, the shared one; of the embeddings a row is looked up.
    assert file_facts(tmp_path / "moe.gguf").read_bytes == 4 * 32 * (2 + 8 + 2 * 16 + 16)


def test_facts_of_graphs_are_those_of_their_manifest(nano_onnx: Path) -> None:
    facts = file_facts(nano_onnx)
    assert (facts.format, facts.quantisation, facts.bits_per_weight) == ("ONNX", "float32", 32)
    assert facts.bytes == sum(file.stat().st_size for file in nano_onnx.rglob("*") if file.is_file())
    assert facts.read_bytes == (nano_onnx / "weights.bin").stat().st_size
    assert facts.kv_slots == facts.context_length == 32


def test_a_directory_of_onnxruntime_genai_is_measured_too(nano_gguf: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_genai")
    out = tmp_path / "genai"
    export_ort_genai(make_model(tmp_path, "qwen3"), out=out, precision="fp32")
    genai, _ = bench_files([out, nano_gguf], settings=replace(SHORT, rounds=1))
    assert (genai.runtime, genai.file.format, genai.file.quantisation) == ("onnxruntime-genai", "ORT-GenAI", "fp32")
    assert genai.file.bytes == sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    assert genai.file.kv_bytes_per_token == 2 * 3 * 2 * 16 * 4  # 3 layers of 2 heads of 16 numbers, in float32
    assert 100_000 < genai.file.read_bytes < genai.file.bytes
    assert genai.tpot_s.value > 0
