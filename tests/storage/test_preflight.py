"""The pair preflight, one mismatch at a time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from eyas.errors import ModelError, PairMismatch
from eyas.recipe import THINKING_FORMATS, ArithmeticSource, ThinkingSpec
from eyas.records import Example
from eyas.storage.preflight import PairReport, check_pair
from eyas.tasks import load_examples


def check(
    student: Path, teacher: Path, *, thinking: ThinkingSpec = THINKING_FORMATS["qwen3"], longest: int = 48,
    examples: list[Example] | None = None,
) -> PairReport:  # fmt: skip
    source = ArithmeticSource(type="arithmetic")
    sample = examples or list(load_examples(source, split="train", count=4, seed=0))
    return check_pair(
        student, teacher, thinking=thinking, examples=sample, modes=("reasoning", "fast"), longest_completion=longest
    )


@pytest.fixture
def copy(tiny_student: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_student, tmp_path / "copy"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_fitting_pair_is_reported(tiny_student: Path, tiny_teacher: Path) -> None:
    report = check(tiny_student, tiny_teacher)
    assert report.tokens == 320
    assert report.label_tokens > 0
    assert "320 tokens with the same ids" in report.lines()[0]


def test_padded_heads_may_differ_in_size(tiny_student: Path, copy: Path) -> None:
    edit(copy / "config.json", vocab_size=352)
    assert check(tiny_student, copy).vocabularies == (320, 352)


def test_differing_tokens_are_named(tiny_student: Path, copy: Path) -> None:
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    for token in tokenizer["added_tokens"]:
        if token["content"] == "<think>":
            token["content"] = "<muse>"
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(PairMismatch, match=r"disagree on 2 tokens .*'<muse>' is None and \d+"):
        check(tiny_student, copy)


def test_differing_eos_is_named(tiny_student: Path, copy: Path) -> None:
    template = copy / "chat_template.jinja"
    template.write_text(
        template.read_text().replace(
            "message.content + '<|im_end|>' -}}{%- endgen", "message.content + '<|endoftext|>' -}}{%- endgen"
        )
    )
    with pytest.raises(PairMismatch, match=r"student ends with '<\|im_end\|>'.*teacher with '<\|endoftext\|>'"):
        check(tiny_student, copy)


def test_a_base_student_and_an_instruct_teacher_with_one_template_fit(tiny_teacher: Path, copy: Path) -> None:
    edit(copy / "tokenizer_config.json", eos_token="<|endoftext|>")
    assert check(copy, tiny_teacher).stop == (2, 0)


def test_differing_templates_show_both_renderings(tiny_student: Path, copy: Path) -> None:
    template = copy / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|im_start|>", "<|im_start|>!"))
    with pytest.raises(PairMismatch, match="render the same messages differently"):
        check(tiny_student, copy)


def test_a_missing_template_says_what_to_do(tiny_student: Path, copy: Path) -> None:
    (copy / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="has no chat template"):
        check(copy, copy)


def test_a_context_that_is_too_short_is_named(tiny_student: Path, tiny_teacher: Path) -> None:
    with pytest.raises(PairMismatch, match=r"the context is 128. Lower sampling.max_completion_tokens"):
        check(tiny_student, tiny_teacher, longest=120)


def test_references_without_reasoning_leave_no_completion(tiny_student: Path, tiny_teacher: Path) -> None:
    bare = Example(key="k", prompt=(("user", "1+1"),), answer="2")
    with pytest.raises(PairMismatch, match="needs `reasoning` beside the answer"):
        check_pair(
            tiny_student, tiny_teacher, thinking=THINKING_FORMATS["qwen3"], examples=[bare], modes=("reasoning",),
            longest_completion=4,
        )  # fmt: skip


def test_modes_that_the_template_does_not_tell_apart_are_refused(copy: Path) -> None:
    template = copy / "chat_template.jinja"
    template.write_text(template.read_text().replace("enable_thinking", "unheard_of"))
    with pytest.raises(PairMismatch, match=r"modes \['reasoning', 'fast'\] are the same tokens"):
        check(copy, copy)
