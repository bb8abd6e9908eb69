"""Prompts, completions and their parsing in the three thinking formats."""

from __future__ import annotations

import pytest

from eyas.recipe import THINKING_FORMATS, ThinkingSpec
from eyas.records import Example
from eyas.thinking import (
    parse_completion,
    prompt_messages,
    prompt_suffix,
    render_completion,
    stream_parts,
    template_arguments,
)

EXAMPLE = Example(key="k", prompt=(("user", "1+1"),), answer="2", reasoning="1+1=2")


def test_plain_writes_the_empty_block_into_the_prompt() -> None:
    plain = THINKING_FORMATS["plain"]
    assert prompt_suffix("fast", thinking=plain) == "<think>\n\n</think>\n\n"
    assert prompt_suffix("reasoning", thinking=plain) == ""
    assert render_completion(EXAMPLE, "fast", thinking=plain) == "2"
    assert render_completion(EXAMPLE, "reasoning", thinking=plain) == "<think>\n1+1=2\n</think>\n\n2"


def test_qwen3_leaves_it_to_the_template() -> None:
    qwen3 = THINKING_FORMATS["qwen3"]
    assert template_arguments("fast", thinking=qwen3) == {"enable_thinking": False}
    assert template_arguments("reasoning", thinking=qwen3) == {"enable_thinking": True}
    assert prompt_suffix("fast", thinking=qwen3) == ""


def test_pangu_switches_in_the_user_turn_and_the_model_writes_the_empty_pair() -> None:
    pangu = THINKING_FORMATS["pangu"]
    assert prompt_messages(EXAMPLE, "fast", thinking=pangu)[-1]["content"] == "1+1 /no_think"
    assert prompt_messages(EXAMPLE, "reasoning", thinking=pangu)[-1]["content"] == "1+1"
    assert render_completion(EXAMPLE, "fast", thinking=pangu) == "[unused16][unused17]2"


DECLARED = {
    "written": ThinkingSpec(open="[[", close="]]\n", switch=" Be quick.", empty="completion"),
    "nowhere": ThinkingSpec(open="Thoughts:\n", close="\nAnswer: ", switch=" Be quick.", empty="none"),
}


@pytest.mark.parametrize("name", sorted(THINKING_FORMATS | DECLARED))
@pytest.mark.parametrize("mode", ["reasoning", "fast"])
def test_a_rendered_completion_parses_back(name: str, mode: str) -> None:
    thinking = (THINKING_FORMATS | DECLARED)[name]
    text = render_completion(EXAMPLE, mode, thinking=thinking)  # type: ignore[arg-type]
    assert text is not None
    parsed = parse_completion(text, thinking=thinking)
    assert parsed.answer == "2"
    assert (parsed.thinking or "") == ("1+1=2" if mode == "reasoning" else "")


def test_a_block_that_never_closes_has_no_answer() -> None:
    parsed = parse_completion("<think>\n1+1=2 and so", thinking=THINKING_FORMATS["plain"])
    assert parsed.answer == ""
    assert parsed.thinking == "1+1=2 and so"


def test_an_example_without_reasoning_has_no_reasoning_completion() -> None:
    bare = Example(key="k", prompt=(("user", "1+1"),), answer="2")
    assert render_completion(bare, "reasoning", thinking=THINKING_FORMATS["plain"]) is None


STREAMED = (
    "<think>\n1 < 2\n\n3</thin\n</think>\n\n  42 <think> and\n 1 ",
    "<think>\n\n</think>\n\n42",
    "<think>cut",
    "42 <thi",
    "",
)


@pytest.mark.parametrize("size", [1, 2, 5, 100])
@pytest.mark.parametrize("text", STREAMED)
def test_a_stream_is_told_as_it_would_be_parsed_however_it_is_cut(text: str, size: int) -> None:
    thinking = THINKING_FORMATS["plain"]
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    found = {True: "", False: ""}
    for inside, part in stream_parts(pieces, thinking=thinking, begun=False):
        found[inside] += part
    parsed = parse_completion(text, thinking=thinking)
    assert (found[True], found[False]) == (parsed.thinking or "", parsed.answer)


def test_a_stream_is_told_at_once_but_for_what_may_be_a_tag_or_white_space_at_its_end() -> None:
    pieces = iter(["so", " far", " <", "b> and", "\n</think>", "42"])
    parts = stream_parts(pieces, thinking=THINKING_FORMATS["plain"], begun=True)
    assert next(parts) == (True, "so")
    assert next(parts) == (True, " far")
    assert next(parts) == (True, " <b> and")
    assert list(parts) == [(False, "42")]
