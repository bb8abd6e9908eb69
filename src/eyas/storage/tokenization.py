"""Prompts and completions as token ids: the only place where text becomes ids."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from eyas.errors import ModelError
from eyas.recipe import ThinkingSpec
from eyas.records import Example, Mode, SequenceRecord
from eyas.storage.chat_template import rendered_prompt
from eyas.thinking import continued, render_completion

MARK = "\u2404eyas\u2404"
"""An assistant's message that no template writes by itself."""


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a Hugging Face directory.

    Raises: ModelError, if it cannot be loaded.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(f"{path}: no usable tokenizer ({str(error).splitlines()[0]}).") from error
    return tokenizer


def render_prompt(tokenizer: PreTrainedTokenizerBase, example: Example, mode: Mode, *, thinking: ThinkingSpec) -> str:
    """The prompt up to where the completion starts, rendered by the model's own chat template.

    A template that writes today's date (Llama 3.2, SmolLM3) gets one fixed day: tomorrow's prompts are the same.

    Raises: ModelError, if the tokenizer has no chat template, or the template refuses the messages.
    """
    if not tokenizer.chat_template:
        raise ModelError(
            f"{tokenizer.name_or_path}: the tokenizer has no chat template. Use an instruction-tuned model, or "
            "one whose tokenizer has a template by `student: {config: …, tokenizer: …}`."
        )

    def render(template: str, messages: list[dict[str, str]], variables: Mapping[str, Any]) -> str:
        return str(tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, **variables))

    template = tokenizer.get_chat_template()
    return rendered_prompt(
        example, mode, template=template, thinking=thinking, render=render, where=tokenizer.name_or_path
    )


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, example: Example, mode: Mode, *, thinking: ThinkingSpec
) -> list[int]:
    """Ids of `render_prompt`.

    Raises: as `render_prompt`.
    """
    return encode_text(tokenizer, render_prompt(tokenizer, example, mode, thinking=thinking))


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a text as it stands, nothing added."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def decode_completion(tokenizer: PreTrainedTokenizerBase, ids: list[int], *, stop: tuple[int, ...]) -> str:
    """Text of a completion without its stop token; thinking tags stay, special or not."""
    kept = ids[:-1] if ids and ids[-1] in stop else ids
    text = tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return str(text)


def stop_ids(tokenizer: PreTrainedTokenizerBase, path: Path) -> tuple[int, ...]:
    """Ids that end a completion: the one the template ends turns with first, then the tokenizer's and the configs'.

    A base model's EOS is often not its template's end of turn (Qwen3-Base: <|endoftext|> and <|im_end|>).

    Raises: ModelError, if there is none, or a config is not JSON.
    """
    turn = end_of_turn(tokenizer)
    found: list[int] = [] if turn is None else [turn]
    found += [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    for name in ("generation_config.json", "config.json"):
        file = path / name
        if file.is_file():
            try:
                value = json.loads(file.read_text()).get("eos_token_id")
            except ValueError as error:
                raise ModelError(f"{file}: not readable ({error}). Download or make the model again.") from error
            found += [value] if isinstance(value, int) else (value or [])
    if not found:
        raise ModelError(f"{path}: neither tokenizer nor generation config has an EOS token; set `eos_token`.")
    return tuple(dict.fromkeys(found))


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Id of the special token that the chat template writes right after an assistant's message; None if it has none."""
    if not tokenizer.chat_template:
        return None
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": MARK}]
    try:
        text = str(tokenizer.apply_chat_template(messages, tokenize=False))
    except TemplateError:
        return None
    after = encode_text(tokenizer, text.rpartition(MARK)[2].lstrip())
    return after[0] if after and after[0] in tokenizer.all_special_ids + _control_ids(tokenizer) else None


def _control_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Added tokens that are marked special but have no role such as EOS."""
    return [int(index) for index, token in tokenizer.added_tokens_decoder.items() if token.special]


def vocabulary_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """One more than the largest id that stands for a token; a model's head may be padded beyond it."""
    return max(tokenizer.get_vocab().values()) + 1


def label_sequence(
    tokenizer: PreTrainedTokenizerBase, example: Example, mode: Mode, *, thinking: ThinkingSpec, stop_id: int
) -> SequenceRecord | None:
    """The example's reference as a sequence; None where it lacks what the mode needs."""
    reference = render_completion(example, mode, thinking=thinking)
    if reference is None:
        return None
    prompt = render_prompt(tokenizer, example, mode, thinking=thinking)
    text = continued(prompt, reference, thinking=thinking)
    return SequenceRecord(
        example_id=example.id,
        sample=0,
        mode=mode,
        source="label",
        prompt_ids=encode_text(tokenizer, prompt),
        completion_ids=[*encode_text(tokenizer, text), stop_id],
        finish_reason="stop",
        text=text,
        answer=example.answer,
        grade=1.0,
    )
