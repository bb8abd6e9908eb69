"""Do a student and a teacher fit together? Looks at tokenizers, templates and configs; loads no weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from eyas.errors import PairMismatch
from eyas.recipe import ThinkingSpec
from eyas.records import Example, Mode
from eyas.storage.tokenization import encode_prompt, encode_text, label_sequence, load_tokenizer, stop_ids

SHOWN = 3
"""Differing tokens named in an error."""


@dataclass(frozen=True)
class PairReport:
    """What was compared and found equal."""

    tokens: int
    vocabularies: tuple[int, int]
    """Rows of the two heads, which padding may make differ."""
    stop: tuple[int, ...]
    context: int
    longest: int
    """Longest prompt of the sample plus the longest completion the recipe asks for."""
    label_tokens: int
    """Completion tokens of the sample's references: what the loss would be on."""

    def lines(self) -> list[str]:
        """For the terminal."""
        padding = "" if len(set(self.vocabularies)) == 1 else f" (heads padded to {self.vocabularies})"
        return [
            f"pair: {self.tokens} tokens with the same ids{padding}, stop ids {list(self.stop)}, same chat template",
            f"context {self.context}, longest sequence expected {self.longest}; "
            f"{self.label_tokens} completion tokens in the sample's references",
        ]


def check_pair(
    student: Path,
    teacher: Path,
    *,
    thinking: ThinkingSpec,
    examples: Sequence[Example],
    modes: Sequence[Mode],
    longest_completion: int,
) -> PairReport:
    """Compare two Hugging Face directories on a sample of examples.

    Raises: PairMismatch, with the first thing that differs; ModelError, if one cannot be read.
    """
    pair = load_tokenizer(student), load_tokenizer(teacher)
    _same_tokens(*pair)
    stops = stop_ids(pair[0], student), stop_ids(pair[1], teacher)
    if stops[0][0] != stops[1][0]:
        names = [tokenizer.convert_ids_to_tokens(stop[0]) for tokenizer, stop in zip(pair, stops, strict=True)]
        raise PairMismatch(
            f"student ends with {names[0]!r} (id {stops[0][0]}), teacher with {names[1]!r} (id {stops[1][0]}). "
            "Completions would run on. Give both the same eos_token in tokenizer and generation config."
        )
    _tags_survive(pair[0], thinking)
    prompts = [
        tuple(encode_prompt(tokenizer, example, mode, thinking=thinking) for tokenizer in pair)
        for example in examples
        for mode in modes
    ]
    for ours, theirs in prompts:
        if ours != theirs:
            raise PairMismatch(
                "student and teacher render the same messages differently:\n"
                f"  student: {pair[0].decode(ours)!r}\n  teacher: {pair[1].decode(theirs)!r}\n"
                "Give the student the teacher's chat template (`student: {from: …, tokenizer: …}`)."
            )
    _modes_differ(prompts, modes)
    configs = [json.loads((path / "config.json").read_text()) for path in (student, teacher)]
    context = min(int(_field(config, "max_position_embeddings") or 2**31) for config in configs)
    longest = max((len(ours) for ours, _ in prompts), default=0) + longest_completion
    if longest > context:
        raise PairMismatch(
            f"a prompt and {longest_completion} completion tokens make {longest}, the context is {context}. "
            "Lower sampling.max_completion_tokens or shorten the prompts."
        )
    return PairReport(
        tokens=len(pair[0]),
        vocabularies=(int(_field(configs[0], "vocab_size")), int(_field(configs[1], "vocab_size"))),
        stop=stops[0],
        context=context,
        longest=longest,
        label_tokens=_label_tokens(pair[0], examples, modes, thinking=thinking, stop_id=stops[0][0]),
    )


def _field(config: dict[str, Any], name: str) -> Any:
    return config.get(name, config.get("text_config", {}).get(name))


def _same_tokens(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> None:
    ours, theirs = student.get_vocab(), teacher.get_vocab()
    if ours == theirs:
        return
    different = sorted(
        (token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token)),
        key=lambda token: (ours.get(token, theirs.get(token)), token),
    )
    shown = "; ".join(f"{token!r} is {ours.get(token)} and {theirs.get(token)}" for token in different[:SHOWN])
    raise PairMismatch(
        f"student and teacher disagree on {len(different)} tokens (student id, teacher id): {shown}. Scores are "
        "ids, so both must share one tokenizer: take two models of one family."
    )


def _tags_survive(tokenizer: PreTrainedTokenizerBase, thinking: ThinkingSpec) -> None:
    for tag in (thinking.open, thinking.close):
        back = tokenizer.decode(encode_text(tokenizer, tag), skip_special_tokens=False)
        if str(back).strip() != tag.strip():
            raise PairMismatch(
                f"the thinking tag {tag!r} becomes {back!r} in this tokenizer; declare another `thinking`."
            )


def _modes_differ(prompts: Sequence[tuple[list[int], ...]], modes: Sequence[Mode]) -> None:
    """`prompts` holds every example in each of the modes in turn."""
    first = [ours for ours, *_ in prompts[: len(modes)]]
    if len(first) > 1 and all(ids == first[0] for ids in first):
        raise PairMismatch(
            f"the prompts of the modes {list(modes)} are the same tokens, so the model cannot know which is wanted. "
            "`thinking: qwen3` needs a chat template that reads `enable_thinking`; `plain` works with any."
        )


def _label_tokens(
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    modes: Sequence[Mode],
    *,
    thinking: ThinkingSpec,
    stop_id: int,
) -> int:
    answered = [example for example in examples if example.answer is not None]
    labels = [
        label_sequence(tokenizer, example, mode, thinking=thinking, stop_id=stop_id)
        for example in answered
        for mode in modes
    ]
    count = sum(len(label.completion_ids) for label in labels if label is not None)
    if answered and modes and count == 0:
        raise PairMismatch(
            f"none of {len(answered)} sampled references yields a completion in the modes {list(modes)}: reasoning "
            "needs `reasoning` beside the answer. Add it, or leave the reasoning mode out of the recipe."
        )
    return count
