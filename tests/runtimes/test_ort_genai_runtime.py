"""onnxruntime-genai as a session: chunks, resets, limits, and damage that it would not notice itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from static_models import hf_greedy, hf_logits, make_model

from eyas.errors import ArtifactError, CorruptArtifact, DataError
from eyas.export.ort_genai import export_ort_genai
from eyas.runtimes.manifest import FileSpec
from eyas.runtimes.opening import open_runtime
from eyas.runtimes.ort_genai import load_ort_genai

IDS = [int(index) for index in np.random.default_rng(1).integers(0, 300, 64)]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen3."""
    return make_model(tmp_path_factory.mktemp("model"), "qwen3")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Path:
    out = tmp_path_factory.mktemp("out") / "genai"
    export_ort_genai(model_dir, out=out, precision="fp32")
    return out


def test_logits_are_those_of_transformers_however_the_tokens_come_in(exported: Path, model_dir: Path) -> None:
    expected = hf_logits(model_dir, IDS)
    bound = 1e-5 * np.ptp(expected)
    with load_ort_genai(exported, threads=1) as runtime:
        session = runtime.session
        for cut in (1, 19, 63):
            session.reset()
            parts = [np.array(session.prefill(IDS[:cut], every=True)), np.array(session.prefill(IDS[cut:], every=True))]
            assert abs(np.concatenate(parts) - expected).max() < bound
        session.reset()
        last = session.prefill(IDS[:40], every=False)
        assert last.shape == (1, 320)
        assert abs(last[0] - expected[39]).max() < bound
        decoded = np.array([np.array(session.decode(token)) for token in IDS[40:]])
        assert abs(decoded - expected[40:]).max() < bound


def test_a_reset_forgets_and_a_stop_id_in_the_prompt_ends_nothing(exported: Path, model_dir: Path) -> None:
    prompt = [*IDS[:5], 2, *IDS[5:11]]  # 2 is what the library itself would stop at
    with open_runtime(exported, threads=1) as runtime:
        assert (runtime.name, runtime.context_length) == ("onnxruntime-genai", 128)
        first = list(runtime.generate(prompt, max_tokens=20, stop_ids=()))
        list(runtime.generate(IDS[20:60], max_tokens=20, stop_ids=()))
        assert list(runtime.generate(prompt, max_tokens=20, stop_ids=())) == first
        assert first == hf_greedy(model_dir, prompt, count=20)
        timings = runtime.timings()
        assert runtime.session.graph_s > 0
        assert min(timings.prefill_s, timings.load_s, *timings.decode_s) > 0


def test_tokens_that_do_not_fit_are_refused(exported: Path) -> None:
    with load_ort_genai(exported, threads=1, context_length=64) as runtime:
        assert len(list(runtime.generate(IDS[:60], max_tokens=100, stop_ids=()))) == 5
        with pytest.raises(DataError, match="65 tokens"):
            next(runtime.generate([3] * 65, max_tokens=1, stop_ids=()))
        runtime.session.reset()
        for bad in ([3, 320], [-1, 3]):
            with pytest.raises(DataError, match="vocabulary has 320"):
                runtime.session.prefill(bad, every=True)
        with pytest.raises(DataError, match="0 tokens after 0"):
            runtime.session.prefill([], every=True)
        runtime.session.prefill(IDS, every=True)
        with pytest.raises(DataError, match="1 tokens after 64"):
            runtime.session.decode(3)
    for context in (-1, 129):
        with pytest.raises(DataError, match=f"context of {context} tokens, the model has 128"):
            load_ort_genai(exported, context_length=context)


def _copy(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copy"))


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "genai_config.json", "tokenizer.json"])
def test_damaged_files_are_named(exported: Path, tmp_path: Path, name: str) -> None:
    broken = _copy(exported, tmp_path)
    whole = (broken / name).read_bytes()
    (broken / name).write_bytes(whole[:-7])
    with pytest.raises(CorruptArtifact, match=rf"{name}: [\d,]+ bytes"):
        load_ort_genai(broken)
    (broken / name).write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    with pytest.raises(CorruptArtifact, match=f"{name}: its content"):
        load_ort_genai(broken)
    (broken / name).unlink()
    with pytest.raises(CorruptArtifact, match=f"{name}: missing"):
        load_ort_genai(broken)


def test_a_directory_of_another_maker_and_a_wrong_manifest_are_errors(exported: Path, tmp_path: Path) -> None:
    broken = _copy(exported, tmp_path)
    path = broken / "ort_genai.json"
    text = path.read_text()
    files = json.loads(text)["files"]
    for edited, words in (
        (text[:100], "JSON"),
        (json.dumps(json.loads(text) | {"vocabulary": 0}), "vocabulary"),
        (json.dumps(json.loads(text) | {"vocabulary": 1320}), r"\(1320, 128, \[2\]\) in ort_genai.json and \(320, "),
        (json.dumps(json.loads(text) | {"stop_ids": [5]}), r"\(320, 128, \[5\]\) in ort_genai.json and \(320, 128, "),
        (json.dumps(json.loads(text) | {"stop_ids": [320]}), "stop_ids are"),
        (json.dumps(json.loads(text) | {"files": {}}), r"`files` lacks genai_config\.json"),
        (json.dumps(json.loads(text) | {"files": files | {"tokenizer.json": None}}), r"files\.tokenizer"),
    ):
        path.write_text(edited)
        with pytest.raises(CorruptArtifact, match=words):
            open_runtime(broken)
    path.unlink()
    with pytest.raises(ArtifactError, match=r"no ort_genai\.json"):
        open_runtime(broken)


def test_what_the_library_refuses_is_one_error(exported: Path, tmp_path: Path) -> None:
    broken = _copy(exported, tmp_path)
    (broken / "model.onnx").write_bytes(b"no graph")
    manifest = json.loads((broken / "ort_genai.json").read_text())
    manifest["files"]["model.onnx"] = FileSpec(bytes=8, sha256="0" * 64).model_dump()
    (broken / "ort_genai.json").write_text(json.dumps(manifest))
    with pytest.raises(CorruptArtifact, match=r"onnxruntime-genai .* cannot load it \("):
        load_ort_genai(broken, verify=False)
