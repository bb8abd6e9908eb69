"""Text to ids and back: what a prompt ends with, what a label holds, what stops a completion."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from eyas.recipe import THINKING_FORMATS
from eyas.records import Example
from eyas.storage.models import load_model, save_model
from eyas.storage.tokenization import (
    decode_completion,
    encode_prompt,
    encode_text,
    end_of_turn,
    label_sequence,
    load_tokenizer,
    stop_ids,
    vocabulary_size,
)

QWEN = THINKING_FORMATS["qwen3"]
EXAMPLE = Example(key="12+30", prompt=(("user", "12+30"),), answer="42", reasoning="10+30=40, 40+2=42")


@pytest.fixture
def tokenizer(tiny_student: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(tiny_student)


@pytest.fixture
def copy(tiny_student: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_student, tmp_path / "copy"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def base_model(directory: Path) -> None:
    """Make a copy a base model: its EOS is <|endoftext|> (id 0), its template's end of turn <|im_end|> (id 2)."""
    edit(directory / "tokenizer_config.json", eos_token="<|endoftext|>")
    for name in ("generation_config.json", "config.json"):
        edit(directory / name, eos_token_id=0)


@pytest.mark.parametrize("mode", ["reasoning", "fast"])
def test_a_label_is_prompt_and_completion_encoded_apart(tokenizer: PreTrainedTokenizerBase, mode: str) -> None:
    label = label_sequence(tokenizer, EXAMPLE, mode, thinking=QWEN, stop_id=2)  # type: ignore[arg-type]
    assert label is not None
    assert label.prompt_ids == encode_prompt(tokenizer, EXAMPLE, mode, thinking=QWEN)  # type: ignore[arg-type]
    assert label.completion_ids == [*encode_text(tokenizer, label.text), 2]
    whole = tokenizer.decode(label.prompt_ids + label.completion_ids)
    thought = "<think>\n10+30=40, 40+2=42\n</think>\n\n" if mode == "reasoning" else "<think>\n\n</think>\n\n"
    assert whole == f"<|im_start|>12+30<|im_end|>{thought}42<|im_end|>"
    assert (label.finish_reason, label.grade, label.source) == ("stop", 1.0, "label")


def test_the_empty_block_stands_where_the_format_wants_it(tokenizer: PreTrainedTokenizerBase) -> None:
    def fast(name: str) -> tuple[str, str]:
        label = label_sequence(tokenizer, EXAMPLE, "fast", thinking=THINKING_FORMATS[name], stop_id=2)
        assert label is not None
        return str(tokenizer.decode(label.prompt_ids)), label.text

    assert fast("plain") == ("<|im_start|>12+30<|im_end|><think>\n\n</think>\n\n", "42")
    assert fast("qwen3") == fast("plain")
    assert fast("pangu") == ("<|im_start|>12+30 /no_think<|im_end|>", "[unused16][unused17]42")


def test_a_mode_without_its_reference_gives_no_label(tokenizer: PreTrainedTokenizerBase) -> None:
    bare = Example(key="k", prompt=(("user", "1"),), answer="1")
    assert label_sequence(tokenizer, bare, "reasoning", thinking=QWEN, stop_id=2) is None
    assert label_sequence(tokenizer, bare, "fast", thinking=QWEN, stop_id=2) is not None
    unanswered = Example(key="k", prompt=(("user", "1"),))
    assert label_sequence(tokenizer, unanswered, "fast", thinking=QWEN, stop_id=2) is None


def test_decoding_drops_the_stop_token_alone_and_keeps_thinking_tags(tokenizer: PreTrainedTokenizerBase) -> None:
    text = "<think>\n1+1\n</think>\n\n2"
    ids = encode_text(tokenizer, text)
    assert decode_completion(tokenizer, [*ids, 2], stop=(2,)) == text
    assert decode_completion(tokenizer, ids, stop=(2,)) == text
    assert decode_completion(tokenizer, [], stop=(2,)) == ""


def test_a_base_models_labels_end_as_its_template_ends_a_turn(copy: Path) -> None:
    assert stop_ids(load_tokenizer(copy), copy) == (2,)
    base_model(copy)
    tokenizer = load_tokenizer(copy)
    assert tokenizer.eos_token_id == 0
    assert stop_ids(tokenizer, copy) == (2, 0)


def test_what_is_saved_stops_where_its_labels_stop(copy: Path, tmp_path: Path) -> None:
    base_model(copy)
    save_model(load_model(copy), load_tokenizer(copy), tmp_path / "saved", card="")
    saved = json.loads((tmp_path / "saved" / "generation_config.json").read_text())
    assert saved["eos_token_id"] == [2, 0]


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.content }}{% endfor %}",
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}",
        "{{ raise_exception('system message first') }}",
    ],
)
def test_a_template_without_an_end_of_turn_leaves_the_eos(copy: Path, template: str) -> None:
    (copy / "chat_template.jinja").write_text(template)
    tokenizer = load_tokenizer(copy)
    assert end_of_turn(tokenizer) is None
    assert stop_ids(tokenizer, copy) == (2,)


def test_the_vocabulary_is_counted_to_its_largest_id(tokenizer: PreTrainedTokenizerBase) -> None:
    assert vocabulary_size(tokenizer) == 320 == len(tokenizer)
