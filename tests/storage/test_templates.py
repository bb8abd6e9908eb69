"""Prompts, completion masks and ends of turn on the chat templates of real models.

The templates are those that the package `trl` carries as data, so nothing is copied here, and SmolLM2's own. Where
trl has a second form with `{% generation %}` marks, the template itself says which tokens are the assistant's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from eyas.engines.base import Sampled
from eyas.engines.respondent import Respondent
from eyas.errors import ModelError
from eyas.recipe import THINKING_FORMATS, SamplingSpec, ThinkingSpec
from eyas.records import MODES, Example, Mode
from eyas.storage.chat_template import render, rendered_prompt
from eyas.storage.origins import link_model
from eyas.storage.smollm2 import describe_smollm2
from eyas.storage.tokenization import encode_text, end_of_turn, label_sequence, load_tokenizer, render_prompt
from eyas.thinking import format_of_template, prompt_messages, template_arguments

TOKENIZER = Path(__file__).parents[2] / "src" / "eyas" / "builtin" / "tokenizer"
EXAMPLE = Example(key="k", prompt=(("user", "12+30"),), answer="42", reasoning="10+30=40")
SYSTEM = Example(key="k", prompt=(("system", "Be brief."), *EXAMPLE.prompt), answer="42", reasoning="10+30=40")
END = {
    "qwen2_5": "<|im_end|>",
    "qwen3": "<|im_end|>",
    "qwen3_instruct_2507": "<|im_end|>",
    "qwen3_5_think": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "llama3_1": "<|eot_id|>",
    "llama3_2": "<|eot_id|>",
    "gemma": "<end_of_turn>",
    "gemma3": "<end_of_turn>",
    "phi3": "<|end|>",
    "lfm2": "<|im_end|>",
    "lfm2_2_5": "<|im_end|>",
    "phi3_5": "<|end|>",
    "qwen3_5_nothink": "<|im_end|>",
    "qwen3_6": "<|im_end|>",
    "deepseek_r1_distill_training": "<｜end▁of▁sentence｜>",
}
"""Template -> the token that its model's card gives as the end of a turn."""
MARKED = ["qwen2_5", "qwen3", "llama3", "gemma", "gemma3", "lfm2"]
"""Templates whose second form marks with `{% generation %}` what is generated, and not the generation prompt too."""


def template(name: str) -> str:
    spec = find_spec("trl")
    assert spec is not None, "`make test` installs trl for its templates"
    assert spec.submodule_search_locations is not None
    return (Path(spec.submodule_search_locations[0]) / "chat_templates" / f"{name}.jinja").read_text()


def with_template(name: str) -> PreTrainedTokenizerBase:
    """The embedded pair's tokenizer with a template and the special tokens that it writes."""
    tokenizer = load_tokenizer(TOKENIZER)
    tokens = ["<bos>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<start_of_turn>", "<|user|>"]
    tokenizer.add_special_tokens({"extra_special_tokens": [*tokens, *dict.fromkeys(END.values())]})
    if name.startswith("deepseek"):
        tokenizer.eos_token = END["deepseek_r1_distill_training"]
    tokenizer.bos_token = "<bos>" if name.startswith("gemma") else "<|begin_of_text|>"
    tokenizer.chat_template = template(name)
    return tokenizer


def thinking_of(name: str) -> ThinkingSpec:
    return THINKING_FORMATS[format_of_template(template(name))]


def conversation(mode: Mode, *, thinking: ThinkingSpec) -> list[dict[str, str]]:
    """The messages with the whole answer as the assistant's, thinking block included."""
    thought = "10+30=40" if mode == "reasoning" else ""
    block = f"{thinking.open}{thought}{thinking.close}"
    return [*prompt_messages(EXAMPLE, mode, thinking=thinking), {"role": "assistant", "content": f"{block}42"}]


def rendered(tokenizer: PreTrainedTokenizerBase, mode: Mode, *, thinking: ThinkingSpec) -> str:
    arguments: dict[str, Any] = template_arguments(mode, thinking=thinking)
    messages = conversation(mode, thinking=thinking)
    return str(tokenizer.apply_chat_template(messages, tokenize=False, **arguments))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [name for name in END if not name.startswith("llama3_")])
def test_prompt_and_completion_are_what_the_template_writes_of_the_conversation(name: str, mode: Mode) -> None:
    tokenizer, thinking = with_template(name), thinking_of(name)
    stop = end_of_turn(tokenizer)
    assert stop == tokenizer.convert_tokens_to_ids(END[name])
    label = label_sequence(tokenizer, EXAMPLE, mode, thinking=thinking, stop_id=stop)
    assert label is not None
    ours = str(tokenizer.decode(label.prompt_ids + label.completion_ids))
    theirs = rendered(tokenizer, mode, thinking=thinking)
    after = theirs.removeprefix(ours)
    assert theirs.startswith(ours)
    assert after.strip() in ("", "<|im_end|>"), "phi3's ends the conversation with the tokenizer's EOS beside"
    assert label.prompt_ids.count(tokenizer.bos_token_id) == theirs.count(tokenizer.bos_token or "")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", MARKED)
def test_the_completion_is_what_the_template_marks_as_generated(name: str, mode: Mode) -> None:
    """But for the empty thinking block, which stands in our prompt, and white space after the end of the turn."""
    marked = with_template(f"{name}_training")
    thinking = thinking_of(name)
    arguments: dict[str, Any] = template_arguments(mode, thinking=thinking)
    messages = conversation(mode, thinking=thinking)
    found = marked.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True, **arguments)
    masked = [token for token, mask in zip(found["input_ids"], found["assistant_masks"], strict=True) if mask]
    stop = end_of_turn(with_template(name))
    assert stop is not None
    label = label_sequence(with_template(name), EXAMPLE, mode, thinking=thinking, stop_id=stop)
    assert label is not None
    block = thinking.open + thinking.close if mode == "fast" else ""
    assert str(marked.decode(masked)).strip() == block + str(marked.decode(label.completion_ids))


@pytest.fixture(scope="module")
def smollm2() -> PreTrainedTokenizerBase:
    """Read out of the package's GGUF, which takes seconds."""
    return describe_smollm2()[1]


@pytest.mark.parametrize("mode", MODES)
def test_smollm2s_own_template_agrees(mode: Mode, smollm2: PreTrainedTokenizerBase) -> None:
    stop = end_of_turn(smollm2)
    assert stop == smollm2.convert_tokens_to_ids("<|im_end|>")
    label = label_sequence(smollm2, EXAMPLE, mode, thinking=THINKING_FORMATS["plain"], stop_id=stop)
    assert label is not None
    ours = str(smollm2.decode(label.prompt_ids + label.completion_ids))
    assert rendered(smollm2, mode, thinking=THINKING_FORMATS["plain"]).rstrip("\n") == ours


@pytest.mark.parametrize("name", ["llama3_1", "llama3_2"])
def test_a_template_that_writes_the_date_writes_the_same_one_every_day(name: str) -> None:
    prompt = render_prompt(with_template(name), EXAMPLE, "reasoning", thinking=THINKING_FORMATS["plain"])
    assert "Today Date: 26 Jul 2024" in prompt
    assert prompt.endswith("<|start_header_id|>assistant<|end_header_id|>\n\n")


def test_a_template_without_a_system_role_is_one_clear_error() -> None:
    with pytest.raises(ModelError, match=r"refuses messages of the roles system, user \(System role not supported\)"):
        render_prompt(with_template("gemma"), SYSTEM, "fast", thinking=THINKING_FORMATS["plain"])


@pytest.mark.parametrize("name", ["deepseek_r1_distill", "qwen3_5_think"])
def test_a_fast_prompt_opens_and_closes_one_block_where_the_template_always_opens_one(name: str) -> None:
    prompt = render_prompt(with_template(name), EXAMPLE, "fast", thinking=THINKING_FORMATS["plain"])
    assert prompt.endswith("<think>\n\n</think>\n\n")
    assert (prompt.count("<think>"), prompt.count("</think>")) == (1, 1)


def test_a_block_that_the_template_opens_is_not_opened_twice() -> None:
    tokenizer = with_template("qwen3_5_think")
    label = label_sequence(tokenizer, EXAMPLE, "reasoning", thinking=THINKING_FORMATS["qwen3"], stop_id=2)
    assert label is not None
    assert str(tokenizer.decode(label.prompt_ids)).endswith("<|im_start|>assistant\n<think>\n")
    assert label.text == "10+30=40\n</think>\n\n42"


@pytest.mark.parametrize(("completion", "answer"), [("10+30=40 so 42", None), ("10+30\n</think>\n\n42", "42")])
def test_a_block_that_the_template_opened_must_be_closed_to_have_an_answer(completion: str, answer: str | None) -> None:
    tokenizer = with_template("qwen3_5_think")

    class Reciting:
        def generate(self, requests: Any, *, sampling: Any, stop: Any) -> list[Sampled]:
            ids = [*encode_text(tokenizer, completion), 2]
            return [Sampled(completion_ids=ids, logprobs=[0.0] * len(ids), finish_reason="stop") for _ in requests]

    respondent = Respondent(
        engine=Reciting(),  # type: ignore[arg-type]
        tokenizer=tokenizer,
        stop=(2,),
        thinking=THINKING_FORMATS["qwen3"],
    )
    (record,) = respondent.answer([(EXAMPLE, "reasoning", 0)], sampling=SamplingSpec(), source="student", seed=(0,))
    assert (record.answer, record.grade) == (answer, 1.0 if answer else 0.0)


PANGU_CHAT = """
{%- if messages[0].role != "system" %}[unused9]系统：[unused10]{% endif -%}
{%- for message in messages -%}
[unused9]{{ {"system": "系统", "user": "用户", "assistant": "助手"}[message.role] }}：{{ message.content }}[unused10]
{%- endfor -%}
{%- if add_generation_prompt %}[unused9]助手：{% endif -%}
""".strip()
"""Writes what openPangu-Embedded's own template writes: `[unused9]ROLE：TEXT[unused10]`, a system turn always first."""
PANGU_TURN = "<s>[unused9]系统：[unused10][unused9]用户：12+30{switch}[unused10][unused9]助手："
"""Its card's example has `<s>` (id 1) before the chat: the tokenizer's BOS, which the template leaves out."""


@pytest.mark.parametrize("place", ["tokenizer_config.json", "chat_template.jinja"])
@pytest.mark.parametrize("mode", MODES)
def test_openpangus_prompt_begins_with_its_bos_and_a_fast_answer_with_the_empty_pair(
    tmp_path: Path, place: str, mode: Mode
) -> None:
    source = tmp_path / "openPangu"
    source.mkdir()
    (source / "config.json").write_text(json.dumps({"model_type": "PanguEmbedded"}))
    config: dict[str, Any] = {"tokenizer_class": "PanguTokenizer", "add_bos_token": True, "bos_token": "<s>"}
    if place == "chat_template.jinja":
        (source / place).write_text(PANGU_CHAT, encoding="utf-8")
    else:
        config["chat_template"] = PANGU_CHAT
    (source / "tokenizer_config.json").write_text(json.dumps(config))
    link_model(source, tmp_path / "linked")
    linked = json.loads((tmp_path / "linked" / "tokenizer_config.json").read_text())
    assert (linked["tokenizer_class"], linked["add_bos_token"]) == ("LlamaTokenizer", False)
    assert not (tmp_path / "linked" / "chat_template.jinja").exists()

    tokenizer = load_tokenizer(TOKENIZER)
    unused = [f"[unused{number}]" for number in (9, 10, 16, 17)]
    tokenizer.add_special_tokens({"extra_special_tokens": ["<s>", *unused]})
    tokenizer.bos_token, tokenizer.chat_template = "<s>", linked["chat_template"]
    assert format_of_template(linked["chat_template"]) == "pangu"
    stop = end_of_turn(tokenizer)
    assert stop == tokenizer.convert_tokens_to_ids("[unused10]")
    thinking = THINKING_FORMATS["pangu"]
    label = label_sequence(tokenizer, EXAMPLE, mode, thinking=thinking, stop_id=stop)
    assert label is not None
    switch, completion = {
        "fast": (" /no_think", "[unused16][unused17]42"),
        "reasoning": ("", "[unused16]10+30=40[unused17]42"),
    }[mode]
    assert tokenizer.decode(label.prompt_ids) == PANGU_TURN.format(switch=switch)
    assert tokenizer.decode(label.completion_ids) == completion + "[unused10]"
    assert label.prompt_ids.count(tokenizer.bos_token_id) == 1
    assert rendered(tokenizer, mode, thinking=thinking) == PANGU_TURN.format(switch=switch) + completion + "[unused10]"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [*END, *(f"{name}_training" for name in MARKED)])
def test_a_template_renders_without_transformers_as_with_it(name: str, mode: Mode) -> None:
    tokenizer = with_template(name)
    thinking = THINKING_FORMATS[format_of_template(str(tokenizer.chat_template))]
    longer = Example(key="k", prompt=(*EXAMPLE.prompt, ("assistant", "42 <&>"), ("user", "and 1 more?")))

    def alone(template: str, messages: list[dict[str, str]], variables: Mapping[str, Any]) -> str:
        return render(template, messages, {**tokenizer.special_tokens_map, **variables})

    ours = rendered_prompt(
        longer, mode, template=tokenizer.get_chat_template(), thinking=thinking, render=alone, where="here"
    )
    assert ours == render_prompt(tokenizer, longer, mode, thinking=thinking)


def test_a_template_writes_json_and_refuses_as_with_transformers() -> None:
    template = (
        "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}\n"
        "  {% if m.content == 'no' %}{{ raise_exception('not this') }}{% endif %}\n"
        "{{ m | tojson(indent=1) }}{% endfor %}"
    )
    tokenizer = load_tokenizer(TOKENIZER)
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "ü <'>"}]
    theirs = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False)
    assert render(template, messages, {}) == theirs == '{\n "role": "user",\n "content": "ü <\'>"\n}'
    for_no = Example(key="k", prompt=(("user", "no"),))
    with pytest.raises(ModelError, match=r"here: the chat template refuses messages of the roles user \(not this\)"):
        rendered_prompt(
            for_no, "fast", template=template, thinking=THINKING_FORMATS["plain"], render=render, where="here"
        )


def test_a_template_reaches_nothing_outside_its_sandbox() -> None:
    with pytest.raises(TemplateError, match="unsafe"):
        render("{{ messages.__class__.__mro__ }}", [], {})
