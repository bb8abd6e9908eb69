"""JSON Lines: what is recognised, and one clear error for each way to be malformed."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eyas.errors import DataError
from eyas.recipe import FileSource
from eyas.records import Example
from eyas.tasks import load_examples
from eyas.tasks.files import expected_rows, read_file

GSM8K = Path(__file__).parents[3] / "shared" / "data" / "gsm8k"


def read(tmp_path: Path, content: str | bytes) -> list[Example]:
    path = tmp_path / "data.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_file(FileSource(type="file", path=str(path))))


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


def test_headings_in_an_answer_are_not_gsm8ks_mark(tmp_path: Path) -> None:
    (row,) = read(tmp_path, '{"prompt": "Q", "completion": "#### Plan\\nWalk.\\n#### Result\\nIt works."}')
    assert (row.reasoning, row.answer) == (None, "#### Plan\nWalk.\n#### Result\nIt works.")


def test_reasoning_and_level_are_kept_and_a_byte_order_mark_is_not(tmp_path: Path) -> None:
    (row,) = read(tmp_path, "\ufeff" + '{"prompt": "1+1", "completion": 2, "reasoning": "1+1=2", "level": 3}')
    assert (row.answer, row.reasoning, row.level) == ("2", "1+1=2", "3")


def test_the_last_assistant_message_is_the_reference(tmp_path: Path) -> None:
    turns = [("user", "1+1"), ("assistant", "2"), ("user", "and 2+2?"), ("assistant", "4")]
    (row,) = read(tmp_path, json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]}))
    assert (row.prompt, row.answer) == (tuple(turns[:3]), "4")


def test_prompts_alone_are_fine(tmp_path: Path) -> None:
    (row,) = read(tmp_path, '{"prompt": "1+1"}\n\n')
    assert row.answer is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"question": "a", "answer": "1"}\n{"question": ', r"data.jsonl, line 2: not JSON"),
        (b'{"question": "\xff"}', r"line 1: not UTF-8"),
        ("[1, 2]", r"line 1: expected an object, found list"),
        ('{"text": "a"}', r"expected one of `messages`, .*, found the keys: text"),
        ('{"question": 1.5, "answer": ["a"]}', r"`answer` must be text, found list"),
        ('{"question": "  ", "answer": "1"}', r"`question` is empty"),
        ('{"question": "a", "answer": "thinking ####  "}', r"no final answer"),
        ('{"messages": []}', r"must be a list that is not empty"),
        ('{"messages": [{"role": "robot", "content": "a"}]}', r"message 1 needs a `role`"),
        ('{"messages": [{"role": "assistant", "content": "a"}]}', r"must be the user's"),
        ('{"messages": [{"role": "user"}]}', r"message 1: `content` must be text, found nothing"),
        ('{"messages": "hello"}', r"must be a list"),
        ('{"messages": ["hello"]}', r"message 1 needs a `role`"),
        ('{"prompt": "a", "completion": "<think>so"}', r"`<think>` opens and never closes"),
        ('{"prompt": "a", "completion": "<think>so</think> "}', r"no final answer"),
        ('{"prompt": "a", "completion": true}', r"`completion` must be text, found bool"),
        ('{"prompt": "a", "completion": "b", "reasoning": {}}', r"`reasoning` must be text, found dict"),
        ('{"prompt": "a", "completion": "b", "level": []}', r"`level` must be text, found list"),
        ('{"prompt": null}', r"`prompt` must be text, found nothing"),
        ('{"prompt": "\\ud800"}', r"`prompt` holds half a character \(\\ud800\)"),
        ("{}", r"found the keys: none"),
        ("null", r"expected an object, found NoneType"),
        ('{"prompt": "a"', r"line 1: not JSON .* one whole JSON object"),
        ("[" * 100_000, r"line 1: not JSON"),
        ('{"prompt": "a"}{"prompt": "b"}', r"line 1: not JSON"),
        ("\x00", r"line 1: not JSON"),
        ("", r"holds no records"),
        ("\n \n", r"holds no records"),
    ],
)
def test_a_malformed_file_is_one_clear_error(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, content)


@settings(deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: json.dumps({"prompt": text}).encode()))
def test_any_line_is_an_example_or_a_data_error(line: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory, contextlib.suppress(DataError):
        for example in read(Path(directory), line):
            assert example.prompt[0][1].strip()


def test_a_draw_from_a_file_does_not_depend_on_its_order_and_varies_with_the_seed(tmp_path: Path) -> None:
    lines = [json.dumps({"prompt": f"{number}+1", "completion": number + 1}) for number in range(300)]

    def drawn(lines: list[str], seed: int) -> list[str]:
        (tmp_path / "data.jsonl").write_text("\n".join(lines))
        source = FileSource(type="file", path=str(tmp_path / "data.jsonl"))
        return [example.key for example in load_examples(source, split="train", count=50, seed=seed)]

    assert len(drawn(lines, 0)) == 50
    assert drawn(lines, 0) == drawn(lines[::-1], 0)
    assert set(drawn(lines, 0)) != set(drawn(lines, 1))
    assert drawn(lines, 0) == drawn(lines, 0)


def test_held_out_splits_take_what_has_an_answer_first(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    rows = [{"prompt": f"{n}+1"} | ({"completion": n + 1} if n % 5 == 0 else {}) for n in range(2000)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = FileSource(type="file", path=str(path))
    test = list(load_examples(source, split="test", count=60, seed=0))
    answered = [example.answer is not None for example in test]
    # About 2,000 / 5 / 10 = 40 problems of the test split have an answer.
    assert 25 < sum(answered) < 60
    assert answered == sorted(answered, reverse=True)
    train = list(load_examples(source, split="train", count=60, seed=0))
    assert 3 < sum(example.answer is not None for example in train) < 25


def test_rows_are_expected_where_their_hash_puts_them(tmp_path: Path) -> None:
    path, test_path = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    path.write_text('{"prompt": "a"}\n\n' * 200)
    test_path.write_text('{"prompt": "b"}\n' * 7)
    alone = FileSource(type="file", path=str(path))
    assert [expected_rows(alone, split=split) for split in ("train", "validation", "test")] == [170, 10, 20]
    both = FileSource(type="file", path=str(path), test_path=str(test_path))
    assert [expected_rows(both, split=split) for split in ("train", "validation", "test")] == [190, 10, 7]
    with pytest.raises(DataError, match=r"none.jsonl: cannot be read"):
        expected_rows(FileSource(type="file", path=str(tmp_path / "none.jsonl")), split="train")


def test_a_malformed_line_is_found_wherever_it_stands_and_however_few_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": f"{n}"}) for n in range(200)) + "\n{broken")
    with pytest.raises(DataError, match="line 201: not JSON"):
        list(load_examples(FileSource(type="file", path=str(path)), split="train", count=3, seed=0))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.jsonl: cannot be read"):
        list(read_file(FileSource(type="file", path=str(tmp_path / "none.jsonl"))))


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
