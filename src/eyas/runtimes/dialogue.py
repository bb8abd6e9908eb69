"""Chat messages to ids and ids to text, by what an exported file carries: no torch, no transformers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tokenizers import Tokenizer

from eyas.errors import ModelError
from eyas.recipe import THINKING_FORMATS, ThinkingSpec
from eyas.records import Example, Mode
from eyas.runtimes.llamacpp import LlamaCpp
from eyas.runtimes.manifest import read_manifest
from eyas.runtimes.ort_genai import GENAI_MANIFEST, read_genai_manifest
from eyas.runtimes.runtime import Runtime
from eyas.storage.chat_template import render, rendered_prompt, template_of
from eyas.thinking import format_of_template

TOKENIZER = "tokenizer"
"""Directory of an ONNX export."""
SPECIAL = ("bos", "eos", "unk", "sep", "pad")
"""Tokens that a template may name, each with `_token` behind."""
CUT = "\ufffd"
"""What the bytes of an unfinished character are decoded to."""
Messages = Sequence[tuple[str, str]]
"""(role, text) each."""


class Dialogue(Protocol):
    """How an exported file is talked to."""

    thinking: ThinkingSpec
    """Guessed from the chat template."""
    stop_ids: frozenset[int]

    def encode_chat(self, messages: Messages, mode: Mode) -> list[int]:
        """Ids of the prompt up to where the answer starts.

        Raises: ModelError, if the chat template refuses the messages.
        """

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids, special tokens as they are written; a character cut at an end becomes U+FFFD."""


def open_dialogue(path: Path, runtime: Runtime) -> Dialogue:
    """Of the file that `runtime` runs.

    Raises: ModelError, if it has no tokenizer or no chat template; ArtifactError, for a damaged manifest.
    """
    if isinstance(runtime, LlamaCpp):
        return GGUFDialogue(path, runtime)
    if (path / GENAI_MANIFEST).is_file():
        return GraphsDialogue(path, stop_ids=read_genai_manifest(path, verify=False).stop_ids)
    return GraphsDialogue(path / TOKENIZER, stop_ids=read_manifest(path, verify=False).stop_ids)


@dataclass(frozen=True)
class _Template:
    """A chat template with the special tokens that it may write."""

    text: str
    tokens: Mapping[str, str]
    where: Path
    thinking: ThinkingSpec

    def __call__(self, messages: Messages, mode: Mode) -> str:
        def rendered(template: str, messages: list[dict[str, str]], variables: Mapping[str, Any]) -> str:
            return render(template, messages, {**self.tokens, **variables})

        asked = Example(key="chat", prompt=tuple(messages))
        return rendered_prompt(
            asked, mode, template=self.text, thinking=self.thinking, render=rendered, where=self.where
        )


class GGUFDialogue:
    """A GGUF file's own template and tokens, by llama.cpp: exactly what its server does with them."""

    def __init__(self, path: Path, runtime: LlamaCpp) -> None:
        """Raises: ModelError, for a file without chat template."""
        metadata = runtime.head.metadata
        text = template_of(metadata, where=path)
        tokens = metadata["tokenizer.ggml.tokens"]
        ids = {name: metadata.get(_KEYS.get(name, f"tokenizer.ggml.{name}_token_id")) for name in SPECIAL}
        named = {f"{name}_token": tokens[index] for name, index in ids.items() if isinstance(index, int)}
        self._template = _Template(text, named, path, THINKING_FORMATS[format_of_template(text)])
        self._runtime = runtime
        self._first = ids["bos"] if metadata.get("tokenizer.ggml.add_bos_token") is True else None
        self.thinking = self._template.thinking
        self.stop_ids = frozenset(token for token in range(runtime.vocabulary_size) if runtime.ends(token))

    def encode_chat(self, messages: Messages, mode: Mode) -> list[int]:
        """As `Dialogue`; a first token that the file asks for, and its template leaves out, is put before."""
        ids = self._runtime.tokenize(self._template(messages, mode))
        return ids if self._first is None or ids[:1] == [self._first] else [self._first, *ids]

    def decode(self, ids: Sequence[int]) -> str:
        """As `Dialogue`; a SentencePiece word keeps the space before it."""
        return b"".join(map(self._runtime.piece, ids)).decode("utf-8", errors="replace")


_KEYS = {"unk": "tokenizer.ggml.unknown_token_id", "sep": "tokenizer.ggml.seperator_token_id",
         "pad": "tokenizer.ggml.padding_token_id"}  # fmt: skip
"""GGUF's own spellings, where they are not NAME_token_id."""


class GraphsDialogue:
    """The tokenizer's files in an exported directory, as Hugging Face writes them."""

    def __init__(self, directory: Path, *, stop_ids: Iterable[int]) -> None:
        """Raises: ModelError, without tokenizer.json or chat template."""
        try:
            self._tokenizer = Tokenizer.from_str((directory / "tokenizer.json").read_text(encoding="utf-8"))
            config = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"{directory}: no usable tokenizer ({error}). Export the model again.") from error
        except Exception as error:
            raise ModelError(f"{directory}: no usable tokenizer.json ({error}). Export the model again.") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        if not isinstance(config, dict):
            raise ModelError(f"{directory}: tokenizer_config.json is no object. Export the model again.")
        file = directory / "chat_template.jinja"
        try:
            text = file.read_text(encoding="utf-8") if file.is_file() else config.get("chat_template")
        except (OSError, ValueError) as error:
            raise ModelError(f"{file}: no usable chat template ({error}). Export the model again.") from error
        if not isinstance(text, str) or not text:
            raise ModelError(f"{directory}: no chat template. Export a model whose tokenizer has one.")
        named = {f"{name}_token": _content(config.get(f"{name}_token")) for name in SPECIAL}
        given = {name: token for name, token in named.items() if token is not None}
        self._template = _Template(text, given, directory, THINKING_FORMATS[format_of_template(text)])
        self.thinking = self._template.thinking
        self.stop_ids = frozenset(stop_ids)

    def encode_chat(self, messages: Messages, mode: Mode) -> list[int]:
        """As `Dialogue`."""
        ids: list[int] = self._tokenizer.encode(self._template(messages, mode), add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """As `Dialogue`."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))


def _content(token: object) -> str | None:
    """A special token as configs write it: its text, or what an AddedToken is saved as."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None


def texts(ids: Iterable[int], *, dialogue: Dialogue) -> Iterator[str]:
    """The text of a stream of ids piece by piece: whole characters, in the order of the ids.

    The last few ids are decoded anew with each one, since a tokenizer may write a token otherwise at the start.
    """
    seen: list[int] = []
    begin = told = 0
    for token in ids:
        seen.append(token)
        before, text = dialogue.decode(seen[begin:told]), dialogue.decode(seen[begin:])
        if len(text) > len(before) and not text.endswith(CUT):
            yield text[len(before) :]
            begin, told = told, len(seen)
    yield dialogue.decode(seen[begin:])[len(dialogue.decode(seen[begin:told])) :]
