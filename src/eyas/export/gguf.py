"""A Hugging Face directory as one GGUF file: weights, tokenizer, chat template and stop ids."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from transformers import AutoConfig, PreTrainedTokenizerBase

from eyas.errors import ExportError
from eyas.export.converter import CONVERTER, CONVERTER_VERSION, Converter, k_quantiser, quantise
from eyas.export.exported import Exported
from eyas.parity import Limits
from eyas.runtimes.llamacpp import LlamaCpp
from eyas.storage.artifacts import atomic_path
from eyas.storage.gguf import SEAL, UNSEALED, GGUFHead, seal_gguf
from eyas.storage.origins import link_model
from eyas.storage.tokenization import encode_text, end_of_turn, load_tokenizer, stop_ids

Quantisation = Literal["F16", "Q8_0", "Q4_0", "Q4_K_M"]
LIMITS: dict[Quantisation, Limits] = {
    "F16": Limits(error_nats=0.15, kl_nats=3e-5, gap_nats=0.01),
    "Q8_0": Limits(error_nats=3.0, kl_nats=0.01, gap_nats=1.0),
    "Q4_0": Limits(error_nats=math.inf, kl_nats=0.5, gap_nats=math.inf),
    "Q4_K_M": Limits(error_nats=math.inf, kl_nats=0.5, gap_nats=math.inf),
}
"""Set after seeing docs/export.md's figures, 1.4 to 9 times above the largest (F16's gap far more: random models have
near ties). Q8_0's gap is the worst of hundreds of tokens: the trained teacher of the embedded pair had 0.32 nats at a
KL of 7e-4. With four bits the KL alone can tell a broken file from a coarse one. Whether a coarse one is good enough
is for the accuracy to say."""
FILE_TYPES = {"Q4_0": 2}
"""LLAMA_FTYPE_MOSTLY_…, where the converter would write another one."""
GEMMA_PATTERN = 6
GEMMA_27B_LAYERS = 62
TEXTS = (
    "Hello, world! It's 7 o'clock, isn't it? We'LL see.",
    "12+345-6789=3.14159 and 1,000,000",
    "  two spaces\n\n\tone tab \r\n   end   ",
    "def f(x):\n    return {x: [x**2, not x]}  # done\n",
    "Größe, naïve, Привет, 你好,世界。こんにちは 안녕하세요 שלום",
    "🦅 🌈 ©™",
    "a" * 20 + " " * 9 + "<|>[]{}()\\/~`^_",
    "in ½ x² a½ ² 3¾ №5",
)
"""What the two tokenizers must agree on, beside each special token and the rendered chat."""
RARE = (
    "① ⑫ Ⅷ ٣٤ १२ 〇",
    "e\u0301 n\u0303o \u0e01\u0e33 \u0939\u093f\u0928\u094d\u0926\u0940",
    "a\u00a0b\u2003c\u3000d\u200be\u2028f",
    "İI ſ ǅ ﬁ Ⓐ ª º",
    "👩\u200d👩\u200d👧 🇩🇪 ❤\ufe0f ✊🏽",
    "\x00\x01\x7f\ufeff",
)
"""Letters, digits and spaces that few texts hold: where the two differ on these, the export says so and goes on."""
CHAT = [{"role": "user", "content": "What is 12 + 30?"}, {"role": "assistant", "content": "42"}]
SPLIT_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PRE_TOKENIZERS = {
    (SPLIT_QWEN2, "ByteLevel"): "qwen2",
    (SPLIT_QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|"), "ByteLevel"): "llama-bpe",
    ("Digits", "ByteLevel+regex"): "smollm",
    ("ByteLevel+regex",): "gpt-2",
}
"""Steps of a tokenizer.json's pre-tokenizer -> llama.cpp's name for the same (llama-vocab.cpp)."""


def export_gguf(
    model_dir: Path, *, out: Path, converter: Converter, quantisation: Quantisation = "F16", texts: Sequence[str] = ()
) -> Exported:
    """Write `out`, a GGUF file that llama.cpp tokenizes and stops with as Hugging Face does.

    Q4_0 is that of the layers' matrices; embeddings and head stay Q8_0. `texts` are compared by both tokenizers beside
    TEXTS. Not a check of the logits: that is parity, by a runtime.

    Raises: ExportError, if the converter cannot be installed, refuses the model, or the file's tokenizer or stop ids
    differ from the directory's; ModelError, if the directory or the file cannot be read; MissingExtra, without
    `eyas[gguf]`.
    """
    if quantisation == "Q4_K_M":
        k_quantiser(quantisation)  # or fail before the work
    with tempfile.TemporaryDirectory() as scratch, atomic_path(out) as draft:
        source = Path(scratch) / model_dir.resolve().name
        link_model(model_dir.resolve(), source)
        _require_expressible(AutoConfig.from_pretrained(source, trust_remote_code=False).to_dict(), model_dir)
        tokenizer = load_tokenizer(source)
        stops = stop_ids(tokenizer, source)
        named = pre_tokenizer(source)
        made = draft if quantisation != "Q4_K_M" else Path(scratch) / "f16.gguf"
        request = {
            "model": str(source),
            "out": str(made),
            "outtype": {"F16": "f16", "Q4_K_M": "f16"}.get(quantisation, "q8_0"),
            "q4_0": quantisation == "Q4_0",
            "pre_tokenizer": named,
            "metadata": _metadata(tokenizer, stops) | _file_type(quantisation) | {SEAL: UNSEALED},
        }
        converter.convert(request)
        if made != draft:
            quantise(made, draft, to=quantisation)
        seal_gguf(draft)
        head, compared, otherwise = _checked(draft, tokenizer=tokenizer, stops=stops, texts=texts)
    return Exported(
        files=(out,),
        format="gguf",
        quantisation=quantisation,
        bytes=head.bytes,
        facts={
            "architecture": head.architecture,
            "parameters": head.parameters,
            "bits_per_weight": round(head.bits_per_weight, 3),
            "tensor_types": head.types,
            "stop_ids": list(stops),
            "pre_tokenizer": head.metadata.get("tokenizer.ggml.pre"),
            "texts_tokenized_alike": compared,
            "texts_tokenized_otherwise": list(otherwise),
            "converter": f"{CONVERTER} {CONVERTER_VERSION}",
        },
    )


def _require_expressible(config: dict[str, Any], path: Path) -> None:
    """Refuse what GGUF has no key for, so that llama.cpp would compute something else without a word.

    It gives Gemma 3 a window in five layers of six and scales attention by its head size, whatever the config says
    (the 27 B model's own scale is known to it), and gives Qwen2 and Qwen3 no window. `config` is as transformers reads
    it: older files name a pattern instead of the layers.
    """
    kind, layers = config.get("model_type"), config.get("layer_types") or []
    full = [number for number, layer in enumerate(layers, 1) if layer == "full_attention"]
    if kind == "gemma3_text":
        if layers and full != list(range(GEMMA_PATTERN, len(layers) + 1, GEMMA_PATTERN)):
            raise ExportError(
                f"{path}: llama.cpp computes every sixth layer of Gemma 3 with full attention, here they are {full} of "
                f"{len(layers)}. Keep or cut whole groups of six."
            )
        scale, head = config.get("query_pre_attn_scalar", 256), config.get("head_dim", 256)
        if scale != head and len(layers) != GEMMA_27B_LAYERS:
            raise ExportError(f"{path}: query_pre_attn_scalar is {scale}, llama.cpp computes with head_dim, {head}.")
    elif kind in ("qwen2", "qwen3") and "sliding_attention" in layers:
        raise ExportError(f"{path}: llama.cpp computes {kind} without a sliding window; set use_sliding_window: false.")


def pre_tokenizer(model_dir: Path) -> str | None:
    """llama.cpp's name for what a tokenizer.json does before it merges; None where it is none that is known here.

    The converter knows tokenizers by a hash of ids, so it knows no own or pruned vocabulary, whatever its rules are.
    """
    file = model_dir / "tokenizer.json"
    if not file.is_file():
        return None
    found = json.loads(file.read_text(encoding="utf-8")).get("pre_tokenizer") or {}
    steps = found.get("pretokenizers", [found])
    return PRE_TOKENIZERS.get(tuple(_step(step) for step in steps))


def _step(step: dict[str, Any]) -> str:
    kind = str(step.get("type"))
    if kind == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
        return str(step["pattern"].get("Regex"))
    if kind == "Digits":
        return kind if step.get("individual_digits") else "Digits together"
    if kind == "ByteLevel" and not step.get("add_prefix_space"):
        return "ByteLevel+regex" if step.get("use_regex", True) else kind
    return f"another {kind}"


def _metadata(tokenizer: PreTrainedTokenizerBase, stops: tuple[int, ...]) -> dict[str, Any]:
    """Stop ids, and a tokenizer that adds nothing: templates write all there is, the first token too."""
    turn = end_of_turn(tokenizer)
    keys = ["eos", "eot", "eom"] if turn is None or len(stops) == 1 else ["eot", "eos", "eom"]
    found: dict[str, Any] = {f"tokenizer.ggml.{key}_token_id": stop for key, stop in zip(keys, stops, strict=False)}
    found |= {"tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.add_eos_token": False}
    first = tokenizer.convert_ids_to_tokens(encode_text(tokenizer, "a")[:1])[0]
    found["tokenizer.ggml.add_space_prefix"] = first.startswith("\u2581")
    return found


def _file_type(quantisation: str) -> dict[str, int]:
    return {"general.file_type": FILE_TYPES[quantisation]} if quantisation in FILE_TYPES else {}


def _checked(
    path: Path, *, tokenizer: PreTrainedTokenizerBase, stops: tuple[int, ...], texts: Sequence[str]
) -> tuple[GGUFHead, int, tuple[str, ...]]:
    """The file's head, how many texts both tokenizers made the same ids of, and the rare ones of which they did not.

    Raises: ExportError, at the first one that differs, or a stop id at which llama.cpp would not stop.
    """
    probes = [*TEXTS, *texts, *(token.content for token in tokenizer.added_tokens_decoder.values())]
    if tokenizer.chat_template:
        probes.append(str(tokenizer.apply_chat_template(CHAT, tokenize=False)))
    with LlamaCpp(path, context_length=1, threads=1) as runtime:
        for text in probes:
            expected, found = encode_text(tokenizer, text), runtime.tokenize(text)
            if found != expected:
                at = next((i for i, pair in enumerate(zip(found, expected, strict=False)) if pair[0] != pair[1]), 0)
                raise ExportError(
                    f"from token {at} on the GGUF's tokenizer makes {found[at : at + 5]} of {text[:60]!r}, the model's "
                    f"makes {expected[at : at + 5]}: "
                    f"llama.cpp's {runtime.head.metadata.get('tokenizer.ggml.pre')!r} is not what it does. Use a "
                    "tokenizer of a published model, or a byte-level BPE with GPT-2's, SmolLM's, Qwen2's or "
                    "Llama 3's pre-tokenizer."
                )
        missing = [stop for stop in stops if not runtime.ends(stop)]
        if missing:
            raise ExportError(f"llama.cpp would not stop at {missing} of the stop ids {stops}: keep at most three.")
        otherwise = tuple(text for text in RARE if runtime.tokenize(text) != encode_text(tokenizer, text))
        return runtime.head, len(probes) + len(RARE) - len(otherwise), otherwise
