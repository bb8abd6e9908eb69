"""Records of the common schemas become the same example, whatever their keys are called."""

from __future__ import annotations

from typing import Any

import pytest

from eyas.errors import DataError
from eyas.records import Example
from eyas.tasks.records import example_of

USER = {"role": "user", "content": "1+1"}
SAID = {"from": "human", "value": "1+1"}
THOUGHT = "<think>1+1=2</think>\n\n2"


def example(row: object) -> Example:
    return example_of(row, grader="numeric", where="data, line 1")


@pytest.mark.parametrize(
    "row",
    [
        {"question": "1+1", "answer": "1+1=<<1+1=2>>2\n#### 2"},
        {"question": "1+1", "answer": "<think>1+1=2</think>\n#### 2"},
        {"question": "1+1", "answer": 2, "reasoning": "1+1=2"},
        {"prompt": "1+1", "completion": THOUGHT},
        {"prompt": "1+1", "completion": "1+1=2</think>2"},
        {"prompt": [USER], "completion": [{"role": "assistant", "content": THOUGHT}]},
        {"prompt": [USER], "answer": THOUGHT},
        {"messages": [USER, {"role": "assistant", "content": THOUGHT}]},
        {"messages": [USER, {"role": "assistant", "content": "2", "reasoning_content": "1+1=2"}]},
        {"instruction": "1+1", "input": "", "output": THOUGHT},
        {"instruction": "1+1", "output": "2", "reasoning": "1+1=2"},
        {"conversations": [SAID, {"from": "gpt", "value": THOUGHT}]},
        {"conversations": [USER, {"role": "assistant", "content": THOUGHT}]},
        {"prompt": "1+1", "response": THOUGHT},
        {"question": "1+1", "output": THOUGHT},
        {"instruction": "1+1", "context": None, "response": THOUGHT, "system": "", "level": " "},
        {"prompt": "1+1", "completion": "[unused16]1+1=2[unused17]2"},
        {
            "messages": [
                {"role": "system", "content": ""},
                USER,
                {"role": "model", "content": "2", "reasoning": "1+1=2"},
            ]
        },
        {
            "messages": [
                {"role": "User", "content": [{"type": "text", "text": "1+"}, {"type": "text", "text": "1"}]},
                {"role": "assistant", "content": [{"type": "text", "text": THOUGHT}]},
            ]
        },
    ],
)
def test_every_schema_gives_prompt_reasoning_and_answer(row: dict[str, Any]) -> None:
    found = example(row)
    assert (found.prompt, found.answer) == ((("user", "1+1"),), "2")
    assert found.reasoning in {"1+1=2", "1+1=2\n"}


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"question": "Q?", "choices": ["x", "y", "z"], "answer": 1}, "B"),
        ({"question": "Q?", "choices": ["x", "y", "z"], "answer": "1"}, "B"),
        ({"question": "Q?", "choices": ["x", "y", "z"], "answer": "B"}, "B"),
        ({"question": "Q?", "choices": ["x", "y", "z"], "answer": "y"}, "B"),
        ({"question": "Q?", "options": ["x", "y", "z"], "answer": "B", "answer_index": 1}, "B"),
        ({"question": "Q?", "choices": {"text": ["x", "y", "z"], "label": ["1", "2", "3"]}, "answerKey": "2"}, "B"),
        ({"question": "Q?", "choices": ["x", "y", "z"]}, None),
    ],
    ids=["MMLU", "number as text", "letter", "text", "MMLU-Pro", "ARC", "no answer"],
)
def test_choices_beside_a_question_are_part_of_the_prompt_and_the_answer_is_a_letter(
    row: dict[str, Any], answer: str | None
) -> None:
    assert example(row).prompt == (("user", "Q?\n\nA. x\nB. y\nC. z"),)
    assert example(row).answer == answer


def test_earlier_turns_lose_their_reasoning() -> None:
    turns = [USER, {"role": "assistant", "content": THOUGHT}, {"role": "user", "content": "2+2"}]
    assert example({"messages": turns}).prompt == (("user", "1+1"), ("assistant", "2"), ("user", "2+2"))


def test_a_tag_in_the_users_words_is_the_users() -> None:
    found = example({"prompt": "What does </think> mean?", "completion": "It closes <br>."})
    assert (found.prompt, found.reasoning) == ((("user", "What does </think> mean?"),), None)


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ({"Problem": "a", "Solution": "1"}, "prompt: Problem, answer: Solution"),
        ({"id": 1, "query": "a", "response": "1", "text": None}, "prompt: query, answer: response"),
        ({"text": "a"}, "prompt: text, answer: …"),
        ({"x": "a"}, "prompt: …, answer: …"),
    ],
)
def test_unknown_keys_are_answered_with_the_line_to_write(row: dict[str, Any], line: str) -> None:
    with pytest.raises(DataError) as told:
        example(row)
    assert f"`fields: {{{line}}}`" in str(told.value)
    assert f"`eyas init --fields {line.replace(': ', '=').replace(' ', '')}`" in str(told.value)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "1+1", "completion": None},
        {"prompt": [USER]},
        {"messages": [USER]},
        {"instruction": "1+1"},
        {"conversations": [SAID]},
    ],
)
def test_every_schema_may_be_a_prompt_alone(row: dict[str, Any]) -> None:
    assert (example(row).answer, example(row).reasoning) == (None, None)


def test_alpacas_input_follows_its_instruction_and_a_system_prompt_goes_first() -> None:
    found = example({"system": "Be brief.", "instruction": "Add.", "input": "1, 1", "output": "2"})
    assert found.prompt == (("system", "Be brief."), ("user", "Add.\n\n1, 1"))
    assert found.key == "Be brief. Add. 1, 1"


def test_a_chat_takes_a_system_prompt_unless_it_has_its_own() -> None:
    assert example({"system": "S", "messages": [USER]}).prompt == (("system", "S"), ("user", "1+1"))
    own = {"role": "system", "content": "Own."}
    assert example({"system": "S", "messages": [own, USER]}).prompt == (("system", "Own."), ("user", "1+1"))


def test_null_columns_of_a_joined_table_do_not_hide_the_schema() -> None:
    joined = {"messages": None, "question": None, "prompt": "1+1", "answer": None, "completion": "2"}
    assert (example(joined).prompt, example(joined).answer) == ((("user", "1+1"),), "2")
    said = [{"from": None, "role": "user", "content": "1+1"}, {"from": "gpt", "value": "2", "role": None}]
    assert (example({"messages": said}).prompt, example({"messages": said}).answer) == ((("user", "1+1"),), "2")


def test_sharegpt_keeps_all_turns_and_the_last_reply_is_the_reference() -> None:
    turns = [("system", "S"), ("human", "1+1"), ("gpt", "2"), ("human", "2+2"), ("gpt", "4")]
    found = example({"conversations": [{"from": who, "value": text} for who, text in turns]})
    assert found.prompt == (("system", "S"), ("user", "1+1"), ("assistant", "2"), ("user", "2+2"))
    assert found.answer == "4"


def test_an_empty_pair_of_marks_is_a_fast_answer() -> None:
    found = example({"prompt": "1+1", "completion": "<think>\n\n</think>\n\n2"})
    assert (found.answer, found.reasoning) == ("2", None)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"conversations": [{"from": "tool", "value": "a"}]},
            r"message 1 needs a `from` out of .*gpt.* and a `value`, found `from` 'tool'",
        ),
        ({"conversations": [SAID, {"from": "gpt"}]}, r"message 2: `value` must be text, found nothing"),
        ({"conversations": {"from": "human"}}, r"`conversations` must be a list"),
        ({"instruction": "a", "input": ["b"]}, r"`input` must be text, found list"),
        ({"instruction": "a", "output": "  "}, r"`output` is empty"),
        ({"prompt": "a", "system": 1.5, "level": {}}, r"`level` must be text, found dict"),
        ({"prompt": [], "completion": []}, r"`prompt` must be a list that is not empty"),
        ({"prompt": ["a"]}, r"message 1 needs a `role` out of .*, found str"),
        ({"prompt": [USER], "completion": 1.5, "reasoning": []}, r"`reasoning` must be text, found list"),
        ({"conversations": [SAID, {"role": "user"}]}, r"message 2: `content` must be text, found nothing"),
        ({"prompt": float("nan")}, r"`prompt` must be text or a finite number, found nan"),
        ({"prompt": b"bytes"}, r"`prompt` must be text, found bytes"),
        (
            {"\udc00" + "k" * 99: 1, **{str(n): n for n in range(20)}},
            r"the keys: \\udc00k{38}.u2026, 0, 1, 2, 3, 4, 5, 6, …\.",
        ),
        ({"data": [{"question": "1+1"}]}, r"If `data` are the records, save that list alone"),
        ({"prompt": "a", "completion": "Sure. <think>so"}, r"`<think>` opens and never closes"),
        ({"prompt": "a", "completion": "<think>so</think>b</think>"}, r"`</think>` closes a first block"),
        ({"messages": [USER, {"role": "assistant", "content": "<think>a"}, USER]}, r"message 2: `<think>` opens"),
        ({"messages": [USER, {"role": "assistant", "content": "<think>a</think>"}, USER]}, r"message 2: nothing after"),
        ({"messages": [USER, {"role": "assistant", "tool_calls": [{}]}]}, r"message 2: calls a tool"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, r"holds a part that is no text .*'image'"),
        ({"question": "a", "choices": ["x", "y"], "answer": 2}, r"the answer '2' is none of the 2 choices"),
        ({"question": "a", "choices": ["x", None], "answer": 0}, r"`choice` must be text, found nothing"),
        (
            {"question": "a", "choices": list("abcdefghijk"), "answer": 0},
            r"11 choices, but answers are letters from A to J",
        ),
        ({"question": "a", "answer": "1 #### 2 #### 3"}, r"two `####` in one line"),
    ],
)
def test_a_malformed_record_says_what_was_found(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=rf"data, line 1.*{message}"):
        example(row)
