"""JSON Lines: what is recognised, and one clear error for each way to be malformed."""

from __future__ import annotations

from pathlib import Path

import pytest

from eyas.errors import DataError
from eyas.recipe import FileSource
from eyas.records import Example
from eyas.tasks import load_examples
from eyas.tasks.files import read_jsonl

GSM8K = Path(__file__).parents[3] / "shared" / "data" / "gsm8k"


def read(tmp_path: Path, content: str | bytes) -> list[Example]:
    path = tmp_path / "data.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_jsonl(path, grader="numeric"))


def test_gsm8k_rows_split_into_reasoning_and_answer(tmp_path: Path) -> None:
    (row,) = read(tmp_path, '{"question": "Q?", "answer": "2+2=<<2+2=4>>4 eggs.\\n#### 4"}')
    assert (row.prompt, row.reasoning, row.answer) == ((("user", "Q?"),), "2+2=4 eggs.", "4")


def test_messages_and_think_blocks(tmp_path: Path) -> None:
    (row,) = read(
        tmp_path,
        '{"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1"},'
        ' {"role": "assistant", "content": "<think>1+1=2</think>2"}]}',
    )
    assert (row.prompt, row.reasoning, row.answer) == ((("system", "Be brief."), ("user", "1+1")), "1+1=2", "2")


def test_prompts_alone_are_fine(tmp_path: Path) -> None:
    (row,) = read(tmp_path, '{"prompt": "1+1"}\n\n')
    assert row.answer is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"question": "a", "answer": "1"}\n{"question": ', r"data.jsonl, line 2: not JSON"),
        (b'{"question": "\xff"}', r"line 1: not UTF-8"),
        ("[1, 2]", r"line 1: expected an object, found list"),
        ('{"text": "a"}', r"expected `question`, `prompt` or `messages`, found the keys: text"),
        ('{"question": 1.5, "answer": ["a"]}', r"`answer` must be text, found list"),
        ('{"question": "  ", "answer": "1"}', r"`question` is empty"),
        ('{"question": "a", "answer": "thinking ####  "}', r"no final answer"),
        ('{"messages": []}', r"must be a list that is not empty"),
        ('{"messages": [{"role": "robot", "content": "a"}]}', r"message 1 needs a `role`"),
        ('{"messages": [{"role": "assistant", "content": "a"}]}', r"must be the user's"),
        ('{"messages": [{"role": "user"}]}', r"message 1: `content` must be text, found NoneType"),
        ("", r"holds no records"),
        ("\n \n", r"holds no records"),
    ],
)
def test_a_malformed_file_is_one_clear_error(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, content)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.jsonl: cannot be read"):
        list(read_jsonl(tmp_path / "none.jsonl", grader="numeric"))


@pytest.mark.skipif(not GSM8K.is_dir(), reason="the GSM8K files are not beside this checkout")
def test_the_real_gsm8k_loads_and_its_splits_are_disjoint() -> None:
    files = {path.stem: path for path in GSM8K.rglob("*.jsonl")}
    train = next(path for name, path in files.items() if "train" in name)
    test = next(path for name, path in files.items() if "test" in name)
    source = FileSource(type="file", path=str(train), test_path=str(test))
    trained = list(load_examples(source, split="train", count=100_000, seed=0))
    tested = list(load_examples(source, split="test", count=100_000, seed=0))
    assert len(trained) > 6500
    assert len(tested) == 1319
    assert all(example.answer and example.reasoning for example in trained + tested)
    assert {example.key for example in trained}.isdisjoint(example.key for example in tested)
