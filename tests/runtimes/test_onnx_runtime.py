"""The host loop over onnxruntime: what padding, chunks and damage do, and what is drawn."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from static_models import hf_logits, make_model

from eyas.errors import ArtifactError, CorruptArtifact, DataError, ModelError
from eyas.export.onnx import export_onnx
from eyas.runtimes.manifest import file_spec
from eyas.runtimes.onnx import load_onnx
from eyas.runtimes.runtime import next_token, top_of
from eyas.runtimes.static import CALL_TOKENS, best_lengths, calls_for

IDS = [int(index) for index in np.random.default_rng(1).integers(3, 300, 64)]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Gemma 3: two kinds of attention, a window of 12."""
    return make_model(tmp_path_factory.mktemp("model"), "gemma3")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Path:
    """Its graphs of 1, 8 and 32 tokens over 64 slots."""
    out = tmp_path_factory.mktemp("out") / "onnx"
    export_onnx(model_dir, out=out, context_length=64, prefill_lengths=(8, 32))
    return out


@pytest.mark.parametrize("lengths", [(), (8,), (32,), (8, 32)])
def test_logits_do_not_depend_on_chunks_and_padding(exported: Path, model_dir: Path, lengths: tuple[int, ...]) -> None:
    expected = hf_logits(model_dir, IDS)
    with load_onnx(exported, threads=1, prefill_lengths=lengths) as runtime:
        session = runtime.session
        for cut in (1, 5, 8, 19, 37, 63):
            session.reset()
            parts = [np.array(session.prefill(IDS[:cut], every=True)), np.array(session.prefill(IDS[cut:], every=True))]
            assert abs(np.concatenate(parts) - expected).max() < 1e-5 * np.ptp(expected), cut


def test_a_reset_forgets_and_padding_leaves_no_trace(exported: Path) -> None:
    with load_onnx(exported, threads=1) as runtime:
        first = list(runtime.generate(IDS[:11], max_tokens=20, stop_ids=()))
        list(runtime.generate(IDS[20:60], max_tokens=20, stop_ids=()))
        assert list(runtime.generate(IDS[:11], max_tokens=20, stop_ids=())) == first


def test_chunks_cover_the_tokens_at_the_least_cost() -> None:
    best = best_lengths(600, (1, 64, 256))
    plans = [calls_for(count, best) for count in range(601)]
    assert plans[0] == []
    assert plans[1] == [1]
    assert plans[3] == [1, 1, 1]  # 3 x (1 + 8) = 27 < 64 + 8
    assert plans[9] == [64]  # 72 < 9 x 9 = 81
    assert plans[70] == [64, 1, 1, 1, 1, 1, 1]  # 72 + 54 = 126 < 144
    assert plans[250] == [256]  # 264 < 4 x 72 = 288
    assert [plans[length] for length in (64, 256)] == [[64], [256]]  # what a graph takes goes through it alone
    for tokens, chunks in enumerate(plans[1:], start=1):
        assert sum(chunks) >= tokens > sum(chunks[:-1])
        cost = sum(length + CALL_TOKENS for length in chunks)
        assert cost == min(
            large * (256 + CALL_TOKENS) + small * (64 + CALL_TOKENS)
            + max(0, tokens - 256 * large - 64 * small) * (1 + CALL_TOKENS)
            for large in range(4)
            for small in range(11)
        )  # fmt: skip


def test_top_logprobs_are_those_of_transformers(exported: Path, model_dir: Path) -> None:
    logits = hf_logits(model_dir, IDS).astype(np.float64)
    logprobs = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
    logprobs -= logits.max(-1, keepdims=True)
    with load_onnx(exported, threads=1) as runtime:
        top = runtime.top_logprobs(IDS, k=50)
        every = runtime.top_logprobs(IDS[:4], k=320)
    assert top.ids_TK.shape == top.logprobs_TK.shape == (63, 50)
    assert (top.ids_TK.dtype, top.logprobs_TK.dtype) == (np.int32, np.float32)
    assert abs(top.logprobs_TK - np.take_along_axis(logprobs[:-1], top.ids_TK, -1)).max() < 1e-4
    assert abs(top.logprobs_TK - np.sort(logprobs[:-1])[:, :-51:-1]).max() < 1e-4
    assert abs(np.exp(every.logprobs_TK.astype(np.float64)).sum(-1) - 1).max() < 1e-5


def test_generation_ends_at_a_stop_the_limit_or_the_context(exported: Path) -> None:
    with load_onnx(exported, threads=1) as runtime:
        free = list(runtime.generate(IDS[:10], max_tokens=12, stop_ids=()))
        stopped = list(runtime.generate(IDS[:10], max_tokens=12, stop_ids={free[4]}))
        assert stopped == free[: free.index(free[4]) + 1]
        # 60 of 64 slots are taken: four more tokens are taken in, and one more comes out
        assert len(list(runtime.generate(IDS[:60], max_tokens=100, stop_ids=()))) == 5
        assert len(list(runtime.generate(IDS, max_tokens=100, stop_ids=()))) == 1


def test_timings_count_every_token_but_not_the_caller(exported: Path) -> None:
    with load_onnx(exported, threads=1) as runtime:
        stream = runtime.generate(IDS[:10], max_tokens=5, stop_ids=())
        next(stream)
        assert (runtime.timings().completion_tokens, runtime.timings().decode_s) == (1, ())
        assert len(list(stream)) == 4
        timings = runtime.timings()
    assert (timings.prompt_tokens, timings.completion_tokens, len(timings.decode_s)) == (10, 5, 4)
    assert min(timings.prefill_s, timings.load_s, *timings.decode_s) > 0
    assert 0 < runtime.session.graph_s < timings.prefill_s + sum(timings.decode_s)


def test_a_seed_draws_from_the_models_distribution(exported: Path) -> None:
    logits = np.log(np.array([0.1, 0.0, 0.6, 0.3], np.float32) + 1e-30).astype(np.float16)
    generator = np.random.Generator(np.random.Philox(3))
    drawn = [next_token(logits, temperature=1.0, generator=generator) for _ in range(4000)]
    # standard error of a share of 0.6 in 4,000 draws: sqrt(0.24 / 4000) = 0.0077
    assert abs(np.bincount(drawn, minlength=4) / 4000 - [0.1, 0, 0.6, 0.3]).max() < 0.03
    cold = [next_token(logits, temperature=0.05, generator=generator) for _ in range(200)]
    assert set(cold) == {2}
    with load_onnx(exported, threads=1) as runtime:
        runs = [
            list(runtime.generate(IDS[:5], max_tokens=30, stop_ids=(), temperature=3.0, seed=seed))
            for seed in (1, 1, 2)
        ]
    assert runs[0] == runs[1] != runs[2]


def test_logits_that_are_not_finite_are_refused() -> None:
    for bad in (np.nan, np.inf):
        with pytest.raises(ModelError, match="not finite"):
            next_token(np.array([0.0, bad, 1.0], np.float16), temperature=0.0, generator=None)
        with pytest.raises(ModelError, match="not finite"):
            top_of(np.array([[0.0, 1.0, 2.0], [0.0, bad, 1.0]], np.float16), k=1)


def test_a_closed_or_unused_runtime_says_so(exported: Path) -> None:
    with load_onnx(exported, threads=1) as runtime:
        with pytest.raises(DataError, match="nothing was generated yet"):
            runtime.timings()
        assert list(runtime.generate(IDS[:4], max_tokens=0, stop_ids=())) == []
        stream = runtime.generate(IDS[:4], max_tokens=3, stop_ids=())
        next(stream)
        runtime.close()
    for use in (lambda: next(stream), lambda: runtime.top_logprobs(IDS, k=1)):
        with pytest.raises(DataError, match="was closed"):
            use()


def test_tokens_that_do_not_fit_are_refused(exported: Path) -> None:
    with load_onnx(exported, threads=1) as runtime:
        for prompt in ([], [3] * 65):
            with pytest.raises(DataError, match=f"{len(prompt)} tokens"):
                next(runtime.generate(prompt, max_tokens=1, stop_ids=()))
        for ids in ([3], [3] * 66):
            with pytest.raises(DataError, match="expected 2 to 65"):
                runtime.top_logprobs(ids, k=2)
        runtime.session.reset()
        with pytest.raises(DataError, match="vocabulary has 320"):
            runtime.session.prefill([3, 320], every=True)
        runtime.session.prefill(IDS, every=True)
        with pytest.raises(DataError, match="1 tokens after 64"):
            runtime.session.decode(3)
    with pytest.raises(DataError, match=r"no graph takes \[16\] tokens"):
        load_onnx(exported, prefill_lengths=(16,))


def _copy(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copy"))


@pytest.mark.parametrize("name", ["decode.onnx", "weights.bin", "tokenizer/tokenizer.json"])
def test_damaged_files_are_named(exported: Path, tmp_path: Path, name: str) -> None:
    broken = _copy(exported, tmp_path)
    whole = (broken / name).read_bytes()
    (broken / name).write_bytes(whole[:-7])
    with pytest.raises(CorruptArtifact, match=rf"{name}: [\d,]+ bytes"):
        load_onnx(broken)
    (broken / name).write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    with pytest.raises(CorruptArtifact, match=f"{name}: its content"):
        load_onnx(broken)
    (broken / name).unlink()
    with pytest.raises(CorruptArtifact, match=f"{name}: missing"):
        load_onnx(broken)


def _without(manifest: str, name: str) -> dict[str, object]:
    return {file: spec for file, spec in json.loads(manifest)["files"].items() if file != name}


def test_manifests_that_are_none_are_one_error(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no manifest\.json"):
        load_onnx(tmp_path)
    broken = _copy(exported, tmp_path)
    path = broken / "manifest.json"
    text = path.read_text()
    for edited, words in (
        (text[:100], "JSON"),
        (json.dumps(json.loads(text) | {"layers": -1}), "layers"),
        (json.dumps(json.loads(text) | {"surprise": 1}), "surprise"),
        (json.dumps(json.loads(text) | {"format": "eyas-static-decoder-2"}), "format"),
        (json.dumps(json.loads(text) | {"graphs": json.loads(text)["graphs"][1:]}), "takes 8 tokens, expected 1"),
        (json.dumps(json.loads(text) | {"files": {}}), r"`files` lacks weights\.bin"),
        (json.dumps(json.loads(text) | {"files": _without(text, "decode.onnx")}), r"`files` lacks decode\.onnx"),
        (json.dumps(json.loads(text) | {"stop_ids": []}), "stop_ids"),
        (json.dumps(json.loads(text) | {"stop_ids": [2, 320]}), r"stop_ids are \[2, 320\], the vocabulary has 320"),
        (json.dumps(json.loads(text) | {"masked": 0.0}), "masked"),
        *(
            (json.dumps(json.loads(text) | changed), "the tensors of decode are not those of the layers")
            for changed in (
                {"vocabulary": 321},
                {"context_length": 65},
                {"layers": 1},
                {"head_dim": 8},
                {"dtype": "float16"},
                {"window": None},
            )
        ),
    ):
        path.write_text(edited)
        with pytest.raises(CorruptArtifact, match=words):
            load_onnx(broken)


def test_graphs_of_another_export_are_refused(exported: Path, tmp_path: Path) -> None:
    broken = _copy(exported, tmp_path)
    manifest = json.loads((broken / "manifest.json").read_text())
    manifest["graphs"][1]["file"] = "prefill_32.onnx"
    (broken / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CorruptArtifact, match=r"input \('input_ids', \(1, 32\)\), the manifest says \('input_ids', "):
        load_onnx(broken)
    (broken / "prefill_32.onnx").write_bytes(b"no graph")
    manifest["files"]["prefill_32.onnx"] = file_spec(broken / "prefill_32.onnx").model_dump()
    (broken / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CorruptArtifact, match="onnxruntime cannot load it"):
        load_onnx(broken)
