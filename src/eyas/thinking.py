"""Thinking formats as text: how a mode changes the prompt, and how completions are written and read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from eyas.recipe import ThinkingSpec
from eyas.records import Example, Mode


@dataclass(frozen=True)
class ParsedCompletion:
    """A completion's thinking and final answer text; `thinking` is None where no block was found."""

    thinking: str | None
    answer: str


def format_of_template(template: str) -> str:
    """Name of the thinking format that a chat template was written for; plain where nothing speaks for another."""
    if "enable_thinking" in template:
        return "qwen3"
    return "pangu" if "[unused9]" in template or "/no_think" in template else "plain"


def prompt_messages(example: Example, mode: Mode, *, thinking: ThinkingSpec) -> list[dict[str, str]]:
    """Chat messages for this mode: in fast mode the switch is appended to the last user message."""
    messages = [{"role": role, "content": text} for role, text in example.prompt]
    if mode == "fast" and thinking.switch:
        messages[-1]["content"] += thinking.switch
    return messages


def template_arguments(mode: Mode, *, thinking: ThinkingSpec) -> dict[str, bool]:
    """Extra variables for the chat template."""
    return {thinking.template_argument: mode == "reasoning"} if thinking.template_argument else {}


def prompt_suffix(mode: Mode, *, thinking: ThinkingSpec) -> str:
    """Text after the generation prompt: the empty block, where the format wants it in the prompt."""
    return thinking.open + thinking.close if mode == "fast" and thinking.empty == "prompt" else ""


def render_completion(example: Example, mode: Mode, *, thinking: ThinkingSpec) -> str | None:
    """The reference completion without its EOS; None if the example lacks an answer (or, to reason, the reasoning)."""
    if example.answer is None or (mode == "reasoning" and example.reasoning is None):
        return None
    if mode == "reasoning":
        return f"{thinking.open}{example.reasoning}{thinking.close}{example.answer}"
    return (thinking.open + thinking.close if thinking.empty == "completion" else "") + example.answer


def begins_thinking(prompt: str, *, thinking: ThinkingSpec) -> bool:
    """Whether the rendered prompt ends inside a thinking block that its template opened (Qwen3.5, DeepSeek-R1)."""
    return prompt.rstrip().endswith(thinking.open.strip())


def continued(prompt: str, completion: str, *, thinking: ThinkingSpec) -> str:
    """What is written after the prompt, without the opening tag that the prompt already ends with."""
    if not begins_thinking(prompt, thinking=thinking):
        return completion
    if prompt.endswith(thinking.open):
        return completion.removeprefix(thinking.open)
    rest = completion.removeprefix(thinking.open.strip())
    return rest.lstrip("\n") if prompt.endswith("\n") else rest


def parse_completion(text: str, *, thinking: ThinkingSpec) -> ParsedCompletion:
    """Split a completion at the closing tag. An opened block that never closes has no answer."""
    opening, closing = thinking.open.strip(), thinking.close.strip()
    before, found, after = text.partition(closing)
    if found:
        return ParsedCompletion(thinking=before.replace(opening, "", 1).strip(), answer=after.strip())
    if opening in text:
        return ParsedCompletion(thinking=text.partition(opening)[2].strip(), answer="")
    return ParsedCompletion(thinking=None, answer=text.strip())


def stream_parts(pieces: Iterable[str], *, thinking: ThinkingSpec, begun: bool) -> Iterator[tuple[bool, str]]:
    """A completion as it is streamed, in parts of which each is thinking (True) or answer; `begun`: its prompt opened
    the block. Tags and the white space around them are left out: together the parts are what `parse_completion` finds
    in a completion that begins with its block.
    """
    opening, closing = thinking.open.strip(), thinking.close.strip()
    tag, inside, fresh, held = closing if begun else opening, begun, True, ""
    for piece in pieces:
        held += piece
        while tag and tag in held:
            before, _, held = held.partition(tag)
            if part := (before.lstrip() if fresh else before).rstrip():
                yield inside, part
            inside, fresh = tag == opening, True
            tag = closing if inside else ""
        if fresh:
            held = held.lstrip()
        sure = held[: len(held) - _begun_tag(held, tag)].rstrip()
        if sure:
            yield inside, sure
            held, fresh = held[len(sure) :], False
    if part := held.rstrip():
        yield inside, part


def _begun_tag(text: str, tag: str) -> int:
    """Characters at the end of a text that may be the start of the tag."""
    return next((size for size in range(min(len(tag) - 1, len(text)), 0, -1) if text.endswith(tag[:size])), 0)
