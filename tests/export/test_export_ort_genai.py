"""Directories for onnxruntime-genai: the graph is the model, int4 is near it, the rest is one clear error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime_genai
import pytest
import torch
from static_models import make_model

from eyas.builtin import DIRECTORY
from eyas.errors import ExportError, MissingExtra
from eyas.export import ort_genai
from eyas.export.ort_genai import LIMITS, export_ort_genai
from eyas.export.reference import Reference, parity_with, reference_of
from eyas.parity import require_parity
from eyas.runtimes.ort_genai import load_ort_genai
from eyas.storage.models import load_model
from eyas.storage.tokenization import encode_text, load_tokenizer, stop_ids

NANO = DIRECTORY / "nano-student"
WIDE = {"head_dim": 16, "hidden_size": 64, "intermediate_size": 96}


def random_reference(directory: Path) -> Reference:
    prompt = torch.randint(3, 276, (40,), generator=torch.Generator().manual_seed(0)).tolist()
    return reference_of(load_model(directory), prompt)


@pytest.mark.parametrize("name", ["llama3-rope", "openpangu", "qwen2"])
def test_graph_of_an_architecture_passes_its_gate(
    name: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    model_dir = make_model(tmp_path, name, **WIDE)
    export_ort_genai(model_dir, out=tmp_path / "out", precision="fp32")
    with load_ort_genai(tmp_path / "out", threads=1) as runtime:
        parity = parity_with(runtime, [random_reference(model_dir)])
    record_property("parity", str(parity))
    require_parity(parity, limits=LIMITS["fp32"])
    assert (parity.positions, parity.greedy_agreed) == (40 + 64 - 1, 64)


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("nano") / "int4"
    export_ort_genai(NANO, out=out)
    return out


def test_builtin_student_in_int4_passes_its_gate_on_real_prompts(
    nano: Path, nano_references: list[Reference], record_property: Callable[[str, object], None]
) -> None:
    with load_ort_genai(nano, threads=1) as runtime:
        parity = parity_with(runtime, nano_references)
    record_property("parity", str(parity))
    require_parity(parity, limits=LIMITS["int4"])
    assert parity.kl_nats > 1e-4  # four bits: it is no copy in more


def test_other_programs_find_tokenizer_and_stops_inside(nano: Path) -> None:
    tokenizer = load_tokenizer(NANO)
    model = onnxruntime_genai.Model(str(nano))
    own = onnxruntime_genai.Tokenizer(model)
    for text in ("27-35+48", "reverse 4071", "Hello, world!\n\n  two"):
        assert own.encode(text).tolist() == encode_text(tokenizer, text)
    config = json.loads((nano / "genai_config.json").read_text())
    assert config["model"]["eos_token_id"] == list(stop_ids(tokenizer, NANO))
    assert load_tokenizer(nano).chat_template == tokenizer.chat_template


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 24}, "heads of 24 numbers.*multiple of 16"),
        (
            {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]},
            "/model model is not currently supported.*GGUF",
        ),
    ],
)
def test_other_models_are_one_clear_error(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    config = json.loads((NANO / "config.json").read_text()) | changes
    for file in NANO.iterdir():
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / file.name).symlink_to(file)
    (tmp_path / "model" / "config.json").unlink()
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ExportError, match=words):
        export_ort_genai(tmp_path / "model", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_the_builders_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = ort_genai.importlib.util.find_spec
    monkeypatch.setattr(ort_genai.importlib.util, "find_spec", lambda name: None if name == "onnx_ir" else found(name))
    with pytest.raises(MissingExtra, match=r"eyas\[ort-genai\]"):
        export_ort_genai(NANO, out=tmp_path / "out")
