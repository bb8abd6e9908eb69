"""openPangu-Embedded without its own Python: a Llama with biases and a SentencePiece tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyas.errors import ModelError
from eyas.storage.tokenization import encode_text, load_tokenizer

if TYPE_CHECKING:
    from tokenizers import normalizers
    from transformers import PreTrainedTokenizerBase

REWRITTEN = ("config.json", "tokenizer_config.json", "chat_template.jinja")
OWN_CLASS = "PanguTokenizer"
SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")
PROBES = (
    "the world, 12 345 and 6.78", "你好，世界：12+30=42", "  two spaces\n\n\ta tab ", "naïve café 😀 ﬁ", "\na\t \n",
)  # fmt: skip
"""What the tokenizer that is written must read as SentencePiece does."""


def link_pangu(source: Path, target: Path, config: dict[str, Any]) -> None:
    """Link the files of an openPangu directory, whose config.json holds `config`, into the new directory `target`.

    Its configs are written anew, for classes of transformers' own, and so is tokenizer.json where there is
    tokenizer.model alone. One that is there is taken as it is.

    Raises: ModelError, if tokenizer.json does not read as tokenizer.model does.
    """
    target.mkdir()
    for file in source.iterdir():
        if file.suffix != ".py" and file.name not in REWRITTEN:
            (target / file.name).symlink_to(file)
    (target / "config.json").write_text(json.dumps(_as_llama(config), indent=1))
    tokenizer, template = source / "tokenizer_config.json", source / "chat_template.jinja"
    if tokenizer.is_file():
        values = json.loads(tokenizer.read_text(encoding="utf-8"))
        if template.is_file():
            values["chat_template"] = template.read_text(encoding="utf-8")
        (target / tokenizer.name).write_text(json.dumps(_without_code(values)))
        whole, pieces = ((target / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))
        if values.get("tokenizer_class") == OWN_CLASS if whole else pieces:
            _take_tokenizer(target, source=source)


def _as_llama(config: dict[str, Any]) -> dict[str, Any]:
    """Llama with biases in q, k, v and o (the model's config.json and modelling code), so no remote code."""
    values = config | {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    values["attention_bias"] = values.pop("bias", True)
    values.pop("auto_map", None)
    return values


def _without_code(config: dict[str, Any]) -> dict[str, Any]:
    """`PanguTokenizer` is SentencePiece with added tokens (tokenization_openpangu.py), as Llama's tokenizer is.

    Its card encodes the rendered chat with the tokenizer's own BOS in front, which the template does not write. Here
    templates write all there is, so that BOS goes from the tokenizer into the template: the ids are the card's.
    """
    values = {key: value for key, value in config.items() if key != "auto_map"}
    if values.get("tokenizer_class") == OWN_CLASS:
        values["tokenizer_class"] = "LlamaTokenizer"
    template, bos = values.get("chat_template"), values.get("bos_token", "<s>")
    if isinstance(template, str) and values.get("add_bos_token", True) and bos not in template:
        values |= {"chat_template": "{{ bos_token }}" + template, "add_bos_token": False}
    return values


def _take_tokenizer(directory: Path, *, source: Path) -> None:
    """Have tokenizer.json taken as it is, made out of tokenizer.model if need be; the latter then goes.

    transformers' LlamaTokenizer puts a space before the first word alone, whatever the file says; SentencePiece, which
    openPangu's own class is taken to give every text between two added tokens, puts one before each, or before none.
    Such a class knows nothing of `normalized`: with it, a token would be looked for with that space in front.
    """
    model, file = directory / "tokenizer.model", directory / "tokenizer_config.json"
    values = json.loads(file.read_text(encoding="utf-8"))
    as_llamas = load_tokenizer(directory)
    named = {name: str(token) for name, token in as_llamas.special_tokens_map.items() if name in SPECIAL}
    raw = model.read_bytes() if model.is_file() else None
    if raw is not None and not (directory / "tokenizer.json").is_file():
        _write_tokenizer(directory, raw)
    for token in values.get("added_tokens_decoder", {}).values():
        token["normalized"] = False
    model.unlink(missing_ok=True)
    file.write_text(json.dumps(named | values | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    if raw is not None:
        _compare(load_tokenizer(directory), raw, source=source)


def _write_tokenizer(directory: Path, raw: bytes) -> None:
    """tokenizer.json that reads as the SentencePiece model of these bytes does."""
    from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]
    from tokenizers import normalizers

    spec = ModelProto.FromString(raw).normalizer_spec
    file = directory / "tokenizer_config.json"
    values = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(values | {"add_prefix_space": spec.add_dummy_prefix}))
    backend = load_tokenizer(directory).backend_tokenizer
    backend.normalizer, backend.pre_tokenizer = normalizers.Sequence(_normalizers(spec)), None
    written = json.loads(backend.to_str())
    for token in written["added_tokens"]:
        token["normalized"] = False
    (directory / "tokenizer.json").write_text(json.dumps(written, ensure_ascii=False), encoding="utf-8")


def _compare(tokenizer: PreTrainedTokenizerBase, raw: bytes, *, source: Path) -> None:
    """Raises: ModelError, if the tokenizer does not read PROBES, and special tokens between them, as SentencePiece."""
    import sentencepiece

    original = sentencepiece.SentencePieceProcessor(model_proto=raw)
    special = {id_: str(token) for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
    cases = [(text, original.encode(text)) for text in PROBES]
    cases += [
        (f"{PROBES[0]}{token}{PROBES[0]}", [*original.encode(PROBES[0]), id_, *original.encode(PROBES[0])])
        for id_, token in special.items()
    ]
    for text, expected in cases:
        found = encode_text(tokenizer, text)
        if found != expected:
            raise ModelError(
                f"{source}: tokenizer.json makes {found} of {text!r}, tokenizer.model as SentencePiece reads it "
                f"{expected}. Delete the one that is wrong, or put a tokenizer.json that does the same beside it."
            )


def _normalizers(spec: Any) -> list[normalizers.Normalizer]:
    """What a SentencePiece model's NormalizerSpec says."""
    from tokenizers import Regex, normalizers

    steps: list[normalizers.Normalizer] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend("\u2581"))
    return [*steps, normalizers.Replace(" ", "\u2581")]
