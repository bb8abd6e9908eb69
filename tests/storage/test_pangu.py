"""A model whose tokenizer is a SentencePiece file and nothing else, as openPangu's is, on its way to a device."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from eyas import builtin
from eyas.errors import ExportError, ModelError
from eyas.export.converter import Converter
from eyas.export.gguf import export_gguf
from eyas.export.onnx import export_onnx
from eyas.recipe import ModelSpec
from eyas.records import Example
from eyas.runtimes.dialogue import GraphsDialogue
from eyas.runtimes.llamacpp import LlamaCpp
from eyas.storage import pangu
from eyas.storage.models import materialise
from eyas.storage.tokenization import encode_prompt, encode_text, load_tokenizer

TEXT = "the world and what is in it, 12 345 678"
CONFIG = {
    "model_type": "llama", "hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 64, "vocab_size": 330,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64, "attention_bias": True,
}  # fmt: skip
TEMPLATE = "{% for m in messages %}{{ '[unused9]' + m.content + '[unused10]' }}{% endfor %}"
PLAIN = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
RULES: dict[str, dict[str, Any]] = {
    "a space before each text": PLAIN | {"add_dummy_prefix": True},
    "none": PLAIN | {"add_dummy_prefix": False},
    "spaces made one": PLAIN | {"remove_extra_whitespaces": True, "add_dummy_prefix": False},
    "unicode forms and spaces made one": {"normalization_rule_name": "nmt_nfkc", "add_dummy_prefix": True},
}


def directory_with(path: Path, rules: dict[str, Any]) -> Path:
    """A random openPangu directory with tokenizer.model and a config, and no tokenizer.json."""
    materialise(ModelSpec.model_validate({"config": CONFIG, "tokenizer": "builtin:tokenizer"}), path, seed=3)
    model, words = path / "model", path / "words.txt"
    for file in [*model.glob("tokenizer*"), *model.glob("*.jinja")]:
        file.unlink()
    words.write_text(f"{TEXT}\n" * 90)
    sentencepiece.SentencePieceTrainer.train(
        input=str(words), model_prefix=str(model / "tokenizer"), model_type="bpe", vocab_size=330,
        hard_vocab_limit=False, byte_fallback=True, user_defined_symbols=["[unused9]", "[unused10]"], minloglevel=2,
        **rules,
    )  # fmt: skip
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"model_type": "PanguEmbedded", "eos_token_id": 4}))
    added = {"content": "[unused10]", "lstrip": False, "rstrip": False, "single_word": False, "special": True}
    said = {
        "tokenizer_class": "PanguTokenizer", "eos_token": "[unused10]", "chat_template": TEMPLATE,
        "added_tokens_decoder": {"4": added | {"normalized": True}},
    }  # fmt: skip
    (model / "tokenizer_config.json").write_text(json.dumps(said))
    return model


@pytest.fixture(scope="module", params=RULES)
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return directory_with(tmp_path_factory.mktemp(request.param.split()[0]), RULES[request.param])


@pytest.fixture(scope="module")
def linked(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That directory as eyas loads it."""
    directory = tmp_path_factory.mktemp("linked")
    materialise(ModelSpec(from_=str(published)), directory, seed=0)
    return directory / "model"


def test_ids_are_sentencepieces_of_every_text_between_two_tokens(published: Path, linked: Path) -> None:
    model = sentencepiece.SentencePieceProcessor(model_file=str(published / "tokenizer.model"))
    tokenizer = load_tokenizer(linked)
    for text in (TEXT, " 12  345 \n", "\nthe world\n", "世界 ﬁne"):
        pieces = [[1], [3], model.encode(text), [4], [3], model.encode("in it")]
        expected = [token for piece in pieces for token in piece]
        assert encode_text(tokenizer, f"<s>[unused9]{text}[unused10][unused9]in it") == expected


def test_graphs_get_a_tokenizer_that_a_device_can_read(linked: Path, tmp_path: Path) -> None:
    export_onnx(linked, out=tmp_path / "m", prefill_lengths=())
    dialogue = GraphsDialogue(tmp_path / "m" / "tokenizer", stop_ids=(4,))
    tokenizer, example = load_tokenizer(linked), Example(key="1", prompt=(("user", TEXT),))
    ids = dialogue.encode_chat([("user", TEXT)], "reasoning")
    assert ids == encode_prompt(tokenizer, example, "reasoning", thinking=dialogue.thinking)
    assert (ids[0], ids.count(1)) == (1, 1)
    assert dialogue.decode(encode_text(tokenizer, TEXT)) == TEXT


def test_graphs_of_another_model_get_one_too(published: Path, tmp_path: Path) -> None:
    llama = tmp_path / "llama"
    shutil.copytree(published, llama)
    config = json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    (llama / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    export_onnx(llama, out=tmp_path / "m", prefill_lengths=())
    assert encode_text(load_tokenizer(tmp_path / "m" / "tokenizer"), TEXT) == encode_text(load_tokenizer(llama), TEXT)


def test_gguf_tokenizes_as_the_model_does_or_is_refused(
    linked: Path, published: Path, gguf_converter: Converter, tmp_path: Path
) -> None:
    if published.parent.name.startswith(("unicode", "spaces")):  # llama.cpp keeps spaces and forms as they are
        with pytest.raises(ExportError, match="on the GGUF's tokenizer makes"):
            export_gguf(linked, out=tmp_path / "m.gguf", converter=gguf_converter)
        return
    made = export_gguf(linked, out=tmp_path / "m.gguf", converter=gguf_converter, texts=[TEXT])
    with LlamaCpp(made.files[0], threads=1) as runtime:
        assert runtime.tokenize(TEXT) == encode_text(load_tokenizer(linked), TEXT)


def test_a_tokenizer_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = directory_with(tmp_path, RULES["none"])
    monkeypatch.setattr(pangu, "_normalizers", lambda _spec: [])
    with pytest.raises(ModelError, match=r"tokenizer.json makes .*, tokenizer.model as SentencePiece reads it"):
        materialise(ModelSpec(from_=str(model)), tmp_path / "linked", seed=0)


def test_a_tokenizer_that_lies_there_is_taken_as_it_is(published: Path, linked: Path, tmp_path: Path) -> None:
    both = Path(shutil.copytree(published, tmp_path / "both"))
    shutil.copy(linked / "tokenizer.json", both)
    for name in ("both", "alone"):
        materialise(ModelSpec(from_=str(both)), tmp_path / f"linked-{name}", seed=0)
        tokenizer = load_tokenizer(tmp_path / f"linked-{name}" / "model")
        text = f"[unused9]{TEXT}[unused10][unused9]in it"
        assert encode_text(tokenizer, text) == encode_text(load_tokenizer(linked), text)
        assert tokenizer.eos_token == "[unused10]"
        (both / "tokenizer.model").unlink(missing_ok=True)


def test_two_tokenizers_that_differ_are_refused(tmp_path: Path) -> None:
    model = directory_with(tmp_path, RULES["none"])
    other = json.loads((Path(builtin.DIRECTORY) / "tokenizer" / "tokenizer.json").read_text())
    (model / "tokenizer.json").write_text(json.dumps(other))
    with pytest.raises(ModelError, match="Delete the one that is wrong"):
        materialise(ModelSpec(from_=str(model)), tmp_path / "linked", seed=0)
