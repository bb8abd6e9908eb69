"""An exported Hugging Face directory computes what the model does, and its card says what is known."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from eyas import builtin
from eyas.errors import ExportError
from eyas.export.card import CardResult, ModelCard, card_text, licence_of
from eyas.export.safetensors import WeightType, export_safetensors
from eyas.recipe import ModelSpec
from eyas.storage.models import load_model, materialise, save_model
from eyas.storage.tokenization import end_of_turn, load_tokenizer

NANO = builtin.DIRECTORY / "nano-student"
IDS = torch.arange(3, 40).unsqueeze(0)
CARD = ModelCard(
    name="adder",
    summary="Adds numbers.",
    base_model="somebody/small",
    recipe="name: adder  # ```not a fence```\nstages: []\n",
    data=("arithmetic, 2,000 labels",),
    dataset="chains of three numbers",
    results=(
        CardResult("Distilled", "fast", 0.5, 0.4, 0.6, 2000, this=True),
        CardResult("Teacher", "fast", 0.9, 0.85, 0.95, 2000),
    ),
    limits=("No more than three numbers.",),
)


def front_matter(text: str) -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load(text.split("---\n")[1])
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_exported_model_computes_the_same_bits(dtype: WeightType, tmp_path: Path) -> None:
    made = export_safetensors(NANO, out=tmp_path / "adder", card=CARD, dtype=dtype)
    before = AutoModelForCausalLM.from_pretrained(NANO, dtype=getattr(torch, dtype))
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "adder")
    assert after.dtype == getattr(torch, dtype)
    with torch.inference_mode():
        assert torch.equal(before(IDS).logits, after(IDS).logits)
    assert made.quantisation == dtype
    assert made.facts["bits_per_weight"] == pytest.approx(32 if dtype == "float32" else 16, rel=0.1)  # and the header
    assert made.files[0].name == "config.json"
    assert made.bytes == sum(path.stat().st_size for path in made.files)
    assert made.facts["parameters"] == sum(value.numel() for value in after.parameters())


def test_openpangu_is_exported_as_the_llama_with_biases_that_it_is(tmp_path: Path) -> None:
    config = {
        "model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64,
        "num_attention_heads": 2, "num_key_value_heads": 1, "attention_bias": True,
    }  # fmt: skip
    materialise(ModelSpec(config=config, tokenizer="builtin:tokenizer"), tmp_path, seed=0)
    pangu = Path(shutil.copytree(tmp_path / "model", tmp_path / "pangu"))
    own = {"model_type": "PanguEmbedded", "bias": True, "architectures": ["PanguEmbeddedForCausalLM"]}
    own |= {"attention_bias": None, "auto_map": {"AutoConfig": "configuration.PanguEmbeddedConfig"}}
    (pangu / "config.json").write_text(json.dumps(json.loads((pangu / "config.json").read_text()) | own))
    export_safetensors(pangu, out=tmp_path / "made", card=CARD)
    made = AutoModelForCausalLM.from_pretrained(tmp_path / "made")
    assert made.model.layers[0].self_attn.o_proj.bias is not None
    with torch.inference_mode():
        assert torch.equal(made(IDS).logits, load_model(tmp_path / "model")(IDS).logits)


def test_tokenizer_template_and_stops_come_along(tmp_path: Path) -> None:
    export_safetensors(NANO, out=tmp_path / "adder", card=CARD)
    ours, theirs = AutoTokenizer.from_pretrained(tmp_path / "adder"), load_tokenizer(NANO)
    chat = [{"role": "user", "content": "1+2"}]
    assert ours.apply_chat_template(chat, tokenize=False) == theirs.apply_chat_template(chat, tokenize=False)
    stops = GenerationConfig.from_pretrained(tmp_path / "adder").eos_token_id
    assert end_of_turn(theirs) in ([stops] if isinstance(stops, int) else stops)


def test_the_front_matter_states_the_exported_model_s_own_results(tmp_path: Path) -> None:
    export_safetensors(NANO, out=tmp_path / "adder", card=CARD)
    text = (tmp_path / "adder" / "README.md").read_text()
    found = front_matter(text)
    assert (found["base_model"], found["pipeline_tag"]) == ("somebody/small", "text-generation")
    (index,) = found["model-index"]  # type: ignore[misc]
    (result,) = index["results"]
    (metric,) = result["metrics"]
    assert (metric["type"], metric["value"]) == ("accuracy", 0.5)
    assert metric["args"] == {"low": 0.4, "high": 0.6, "n": 2000}
    assert (
        "| **Distilled** | fast | 50.0 [40.0, 60.0] | 2,000 |\n| Teacher | fast | 90.0 [85.0, 95.0] | 2,000 |" in text
    )
    assert "````yaml\n" + CARD.recipe.rstrip() + "\n````" in text


def test_a_licence_is_the_card_s_or_the_directory_s_or_unknown(tmp_path: Path) -> None:
    assert licence_of(tmp_path) is None
    unknown = card_text(CARD, tmp_path, dtype="float32")
    assert front_matter(unknown)["license"] == "unknown"
    assert "Unknown: see the base model (somebody/small)" in unknown
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n\nA base model.\n")
    assert front_matter(card_text(CARD, tmp_path, dtype="float32"))["license"] == "apache-2.0"
    stated = ModelCard(name="adder", license="mit")
    assert front_matter(card_text(stated, tmp_path, dtype="float32"))["license"] == "mit"
    (tmp_path / "README.md").write_text("---\nlicense: [\n---\n")
    assert licence_of(tmp_path) is None


def test_what_a_training_wrote_on_its_own_card_is_kept_and_a_local_base_is_no_hub_id(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(
        "---\nlibrary_name: transformers\n---\n\n# r: sft\n\nFine-tuned by eyas, 3 steps.\n"
    )
    text = card_text(ModelCard(name="adder", base_model="builtin:nano-student"), tmp_path, dtype="float32")
    assert "## How it was trained\n\nFine-tuned by eyas, 3 steps.\n" in text
    assert "base_model" not in front_matter(text)
    assert "how often was not measured" in text
    told = ModelCard(name="adder", training=("SFT, 3 steps.",))
    assert "- SFT, 3 steps." in card_text(told, tmp_path, dtype="float32")


def test_weights_that_float16_cannot_hold_are_an_error(tmp_path: Path) -> None:
    save_model(load_model(NANO), load_tokenizer(NANO), tmp_path / "big", card="")
    file = tmp_path / "big" / "model.safetensors"
    weights = load_file(file)
    weights["model.norm.weight"][0] = 1e5
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ExportError, match=r"model.norm.weight holds values that are not finite in float16"):
        export_safetensors(tmp_path / "big", out=tmp_path / "made", card=CARD, dtype="float16")
    assert not (tmp_path / "made").exists()
    export_safetensors(tmp_path / "big", out=tmp_path / "made", card=CARD, dtype="bfloat16")
