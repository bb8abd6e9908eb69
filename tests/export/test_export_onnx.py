"""Static ONNX graphs against transformers, for every architecture and both types."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors import safe_open
from static_models import ARCHITECTURES, COMMON, hf_greedy, hf_logits, make_model

from eyas import builtin
from eyas.errors import ExportError, ModelError
from eyas.export.onnx import LIMITS, export_onnx
from eyas.export.onnx_check import ALLOWED, require_static_graph
from eyas.export.reference import parity_with, reference_of
from eyas.parity import require_parity
from eyas.recipe import ArithmeticSource, ModelSpec, ThinkingSpec
from eyas.runtimes.manifest import DType, read_manifest
from eyas.runtimes.onnx import load_onnx
from eyas.storage.models import load_model, materialise
from eyas.storage.tokenization import encode_prompt, encode_text, load_tokenizer, stop_ids
from eyas.tasks import load_examples

NANO = builtin.DIRECTORY / "nano-student"
IDS = [int(index) for index in np.random.default_rng(0).integers(3, 300, 60)]
THINKING = ThinkingSpec(template_argument="enable_thinking", empty="none")
MAX_ERROR = {"float32": 1e-5, "float16": 1e-2}
"""Of the range of the logits: rounding of 24 and 11 bits through three layers, and a different order of sums."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Hugging Face directory of an architecture, made once."""
    known: dict[str, Path] = {"nano-student": NANO}

    def get(name: str) -> Path:
        if name not in known:
            known[name] = make_model(tmp_path_factory.mktemp(name), name)
        return known[name]

    return get


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded student as float16 graphs of its whole context."""
    out = tmp_path_factory.mktemp("nano") / "onnx"
    export_onnx(NANO, out=out, dtype="float16")
    return out


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", [*ARCHITECTURES, "nano-student"])
def test_graphs_say_what_transformers_says_and_pass_their_gate(
    tmp_path: Path,
    made: Callable[[str], Path],
    name: str,
    dtype: DType,
    record_property: Callable[[str, object], None],
) -> None:
    model_dir, out = made(name), tmp_path / "onnx"
    export_onnx(model_dir, out=out, dtype=dtype, context_length=128, prefill_lengths=(16,))
    greedy = hf_greedy(model_dir, IDS[:20], count=64)
    ids = [*IDS[:20], *greedy]
    expected = hf_logits(model_dir, ids)
    with load_onnx(out, threads=1) as runtime:
        prefilled = np.array(runtime.session.prefill(ids, every=True), np.float32)
        runtime.session.reset()
        decoded = np.array([runtime.session.decode(token).copy() for token in ids], np.float32)
        own = list(runtime.generate(IDS[:20], max_tokens=64, stop_ids=()))
        parity = parity_with(runtime, [reference_of(load_model(model_dir), IDS[:20])])
    record_property("parity", str(parity))
    require_parity(parity, limits=LIMITS[dtype])
    bound = MAX_ERROR[dtype] * np.ptp(expected)
    assert np.ptp(expected) > 5
    assert abs(prefilled - expected).max() < bound
    assert abs(decoded - expected).max() < bound
    if dtype == "float32":
        assert own == greedy
    runner_up, best = np.sort(expected, axis=-1)[:, -2:].T
    sure = best - runner_up > 2 * bound  # elsewhere rounding may choose another token
    assert sure.mean() > 0.5
    assert (decoded.argmax(-1) == expected.argmax(-1))[sure].all()


def test_graphs_of_a_slightly_different_model_fail_their_gate(nano: Path) -> None:
    model = load_model(NANO)
    with torch.no_grad():
        model.get_parameter("model.layers.1.post_attention_layernorm.weight").mul_(1.1)
    with load_onnx(nano, threads=1) as runtime:
        parity = parity_with(runtime, [reference_of(model, IDS[:20])])
    with pytest.raises(ExportError, match="another model than the one it was made from"):
        require_parity(parity, limits=LIMITS["float16"])


def test_real_problems_have_equal_answers_in_float16(nano: Path) -> None:
    tokenizer = load_tokenizer(NANO)
    stop = stop_ids(tokenizer, NANO)
    examples = load_examples(ArithmeticSource(type="arithmetic"), split="test", count=6, seed=0)
    with load_onnx(nano, threads=1) as runtime:
        for example in examples:
            ids = encode_prompt(tokenizer, example, "reasoning", thinking=THINKING)
            answer = list(runtime.generate(ids, max_tokens=64, stop_ids=stop))
            assert answer == hf_greedy(NANO, ids, count=len(answer))
            assert answer[-1] in stop


def test_a_directory_holds_all_that_a_device_program_needs(nano: Path) -> None:
    manifest = read_manifest(nano)
    assert [graph.length for graph in manifest.graphs] == [1, 64, 256]
    assert (manifest.layers, manifest.kv_heads, manifest.head_dim, manifest.vocabulary) == (3, 4, 16, 320)
    assert manifest.context_length == 256  # the model has no more positions
    assert manifest.stop_ids == stop_ids(load_tokenizer(NANO), NANO)
    assert load_tokenizer(nano / "tokenizer").chat_template == load_tokenizer(NANO).chat_template
    assert encode_text(load_tokenizer(nano / "tokenizer"), "1+2") == encode_text(load_tokenizer(NANO), "1+2")
    written = {str(path.relative_to(nano)) for path in nano.rglob("*") if path.is_file()}
    assert written == {*manifest.files, "manifest.json"}


def test_graphs_and_tied_embedding_share_one_copy_of_the_weights(nano: Path) -> None:
    with safe_open(NANO / "model.safetensors", framework="pt") as tensors:
        stored = sum(tensors.get_tensor(name).numel() for name in tensors.keys())  # noqa: SIM118
    tables = 2 * 256 * 16 * 2  # cosines and sines of 256 positions of 16 float16
    padding = 4096 * (3 * 7 + 4)
    assert stored * 2 < (nano / "weights.bin").stat().st_size < stored * 2 + tables + padding
    graph = onnx.load(nano / "prefill_64.onnx", load_external_data=False).graph
    assert sum(len(tensor.raw_data) for tensor in graph.initializer) < 5_000


def test_export_says_what_it_wrote(tmp_path: Path) -> None:
    done = export_onnx(NANO, out=tmp_path / "a", dtype="float32", context_length=32, prefill_lengths=(64, 500))
    assert done.files[0] == tmp_path / "a" / "manifest.json"
    assert done.bytes == sum(path.stat().st_size for path in (tmp_path / "a").rglob("*") if path.is_file())
    # 3 layers x keys and values x 4 heads x 16 x 32 slots x 4 bytes = 49,152
    assert done.facts["kv_bytes"] == 49_152
    assert done.facts["prefill_lengths"] == [32]  # both become the context
    again = export_onnx(NANO, out=tmp_path / "a", dtype="float32", context_length=32, prefill_lengths=(64, 500))
    assert again == done


def test_every_operator_is_a_standard_one(nano: Path) -> None:
    for graph in read_manifest(nano).graphs:
        found = require_static_graph(nano / graph.file)
        assert {"MatMul", "Gemm", "Softmax"} < found <= ALLOWED


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 2}, "'gpt2' has no static graph"),
        (
            {
                "model_type": "llama",
                "rope_parameters": {
                    "rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 64,
                },
            },
            "'dynamic' changes with the prompt",
        ),
        ({"model_type": "gemma3_text", "head_dim": 16, "final_logit_softcapping": 30.0}, "final_logit_softcapping"),
    ],
)  # fmt: skip
def test_other_models_are_one_clear_error(tmp_path: Path, config: dict[str, object], words: str) -> None:
    spec = ModelSpec.model_validate({"config": COMMON | config, "tokenizer": "builtin:tokenizer"})
    materialise(spec, tmp_path, seed=0)
    with pytest.raises(ModelError, match=words):
        export_onnx(tmp_path / "model", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("context", "lengths"), [(0, (8,)), (257, (8,)), (64, (0,)), (64, (-3, 8))])
def test_impossible_shapes_are_refused(tmp_path: Path, context: int, lengths: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=r"context of|prefill lengths"):
        export_onnx(NANO, out=tmp_path / "out", context_length=context, prefill_lengths=lengths)


def test_weights_that_are_equal_are_no_obstacle(tmp_path: Path, tiny_student: Path) -> None:
    # the norms of a random model are all ones, which the exporter writes once, with Identity for the others
    export_onnx(tiny_student, out=tmp_path / "out", context_length=16, prefill_lengths=())
    assert "Identity" in require_static_graph(tmp_path / "out" / "decode.onnx")
    with load_onnx(tmp_path / "out", threads=1) as runtime:
        decoded = np.array([runtime.session.decode(token).copy() for token in IDS[:16]])
    assert abs(decoded - hf_logits(tiny_student, IDS[:16])).max() < 1e-5


class _Triangle(torch.nn.Module):
    def forward(self, given: torch.Tensor) -> torch.Tensor:
        return torch.tril(given @ given)


def _written(path: Path, *, opset: int = 14, dynamic: bool = False, module: torch.nn.Module | None = None) -> Path:
    axes = {"given": {0: "rows"}} if dynamic else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            module or _Triangle(), (torch.ones(4, 4),), str(path), dynamo=False, opset_version=opset,
            input_names=["given"], dynamic_axes=axes,
        )  # fmt: skip
    return path


def test_a_foreign_operator_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"operator ai\.onnx\.Trilu .* is none of those"):
        require_static_graph(_written(tmp_path / "a.onnx"))


def test_dynamic_dimensions_other_opsets_and_damage_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no fixed shape"):
        require_static_graph(_written(tmp_path / "a.onnx", dynamic=True, module=torch.nn.Sigmoid()))
    with pytest.raises(ModelError, match="opset"):
        require_static_graph(_written(tmp_path / "b.onnx", opset=17, module=torch.nn.Sigmoid()))
    (tmp_path / "c.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelError, match="not a valid ONNX model"):
        require_static_graph(tmp_path / "c.onnx")


def test_float16_is_exported_from_a_wider_checkpoint(nano: Path) -> None:
    assert load_model(NANO).dtype == torch.float32
    weights = onnx.load(nano / "decode.onnx").graph.initializer
    large = [tensor for tensor in weights if np.prod(tensor.dims) > 16]
    assert {tensor.data_type for tensor in large} == {onnx.TensorProto.FLOAT16}
