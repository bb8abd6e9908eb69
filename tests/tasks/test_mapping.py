"""Fields with other names, and malformed records: one clear error, or counted drops up to a share."""

from __future__ import annotations

import gzip
import io
import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eyas.errors import DataError
from eyas.recipe import FileSource
from eyas.tasks import load_examples
from eyas.tasks.files import expected_rows, read_file
from eyas.tasks.mapping import BadRecords

MATHS = {"Problem": "1+1", "Solution": "2", "Why": "1+1=2", "Level": 3, "Setting": "Be brief."}
FIELDS = {"prompt": "Problem", "answer": "Solution", "reasoning": "Why", "level": "Level", "system": "Setting"}


def lines(rows: list[Any]) -> bytes:
    return b"".join(row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows)


def source(directory: Path, content: bytes, **fields: Any) -> FileSource:
    path = directory / "data.jsonl"
    path.write_bytes(content)
    return FileSource.model_validate({"type": "file", "path": str(path), **fields})


def test_fields_say_what_is_what(tmp_path: Path) -> None:
    (row,) = read_file(source(tmp_path, lines([MATHS | {"prompt": "not this"}]), fields=FIELDS))
    assert row.prompt == (("system", "Be brief."), ("user", "1+1"))
    assert (row.answer, row.reasoning, row.level) == ("2", "1+1=2", "3")


def test_a_mapped_answer_is_split_and_a_mapped_prompt_may_be_a_chat(tmp_path: Path) -> None:
    rows = [{"chat": [{"from": "human", "value": "1+1"}], "said": "<think>1+1=2</think>2"}, {"chat": "2+2"}]
    first, second = read_file(source(tmp_path, lines(rows), fields={"prompt": "chat", "answer": "said"}))
    assert (first.prompt, first.answer, first.reasoning) == ((("user", "1+1"),), "2", "1+1=2")
    assert (second.prompt, second.answer) == ((("user", "2+2"),), None)


def test_what_a_grader_checks_by_is_kept_or_named(tmp_path: Path) -> None:
    fields = {"prompt": "Q", "answer": "A"}
    row = {"Q": "Be short.", "instruction_id_list": ["x"], "kwargs": [{}]}
    (found,) = read_file(source(tmp_path, lines([row]), fields={"prompt": "Q"}, grader="instructions"))
    assert json.loads(found.metadata) == {"instruction_id_list": ["x"], "kwargs": [{}]}

    row = {"Q": "Add.", "A": "def f(): ...", "checks": ["assert f", "assert 1"], "prompt": "not this"}
    mapped = fields | {"metadata": "checks"}
    (found,) = read_file(source(tmp_path, lines([row]), fields=mapped, grader="code"))
    assert (found.prompt, found.answer) == ((("user", "Add."),), "def f(): ...")
    assert json.loads(found.metadata) == {"tests": row["checks"]}
    own = source(tmp_path, lines([row]), fields=mapped, grader="mine.py:right")
    assert [json.loads(found.metadata) for found in read_file(own)] == [row["checks"]]

    row = {"Q": "Which?", "A": 1, "choices": ["x", "y"]}
    (found,) = read_file(source(tmp_path, lines([row]), fields=fields, grader="choice"))
    assert (found.prompt[0][1], found.answer) == ("Which?\n\nA. x\nB. y", "B")


@pytest.mark.parametrize(
    "extra", [{"entry_point": "f", "test": "check"}, {"test_list": ["assert f"]}], ids=["HumanEval", "MBPP"]
)
def test_mapped_programs_keep_the_tests_of_their_record(tmp_path: Path, extra: dict[str, Any]) -> None:
    row = {"Q": "def f():", "A": "def f(): pass", **extra}
    fields = {"prompt": "Q", "answer": "A"}
    (found,) = read_file(source(tmp_path, lines([row]), fields=fields, grader="code"))
    assert found.answer == "def f(): pass"
    assert json.loads(found.metadata)["tests"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([MATHS, {"problem": "1+1"}], r"line 2: expected `Problem` \(`fields.prompt`\), found the keys: problem"),
        ([{"Problem": "1+1", "Why": "w", "Level": 1, "Setting": "s"}], r"no record has the field 'Solution'"),
        ([MATHS | {"Level": []}], r"line 1 \(by `fields`\): `level` must be text, found list"),
        ([[1]], r"line 1: expected an object, found list"),
    ],
)
def test_a_field_that_is_not_there_is_named(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(read_file(source(tmp_path, lines(rows), fields=FIELDS)))


def test_a_test_file_needs_the_answers_but_not_every_other_field(tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"
    held = source(tmp_path, lines([MATHS]), fields=FIELDS, test_path=str(path))
    path.write_bytes(lines([{"Problem": "2+2", "Solution": "4"}]))
    (row,) = load_examples(held, split="test", count=5, seed=0)
    assert row.answer == "4"
    path.write_bytes(lines([{"Problem": "2+2", "Why": "2+2=4"}]))
    with pytest.raises(DataError, match=r"test.jsonl: no record has the field 'Solution'"):
        list(load_examples(held, split="test", count=5, seed=0))


GOOD = [{"question": f"What is {n}+1?", "answer": f"{n}+1=<<{n}+1={n + 1}>>{n + 1}\n#### {n + 1}"} for n in range(40)]
QUESTION, ANSWER = GOOD[0]["question"], GOOD[0]["answer"]
MALFORMED: dict[str, Any] = {
    "cut off": json.dumps(GOOD[0]).encode()[:-9] + b"\n",
    "two on a line": json.dumps(GOOD[0]).encode() * 2 + b"\n",
    "single quotes": str(GOOD[0]).encode() + b"\n",
    "trailing comma": b'{"question": "a", "answer": "1",}\n',
    "not UTF-8": b'{"question": "caf\xe9", "answer": "1"}\n',
    "UTF-16": json.dumps(GOOD[0]).encode("utf-16-le") + b"\n",
    "null bytes": b"\0" * 20 + b"\n",
    "deeply nested": b'{"question": ' + b"[" * 100_000 + b"\n",
    "endless digits": b'{"question": ' + b"9" * 5000 + b"}\n",
    "no JSON": b"question,answer\n",
    "a list": [QUESTION, ANSWER],
    "a string": QUESTION,
    "null": None,
    "no keys": {},
    "other keys": {"Question": QUESTION, "Answer": ANSWER},
    "answer alone": {"answer": ANSWER},
    "empty question": {"question": " \n", "answer": ANSWER},
    "no question": {"question": None, "answer": ANSWER},
    "question is an object": {"question": {"text": QUESTION}, "answer": ANSWER},
    "question is a truth value": {"question": True, "answer": ANSWER},
    "empty answer": {"question": QUESTION, "answer": ""},
    "answer is a list": {"question": QUESTION, "answer": [ANSWER]},
    "answer is infinite": b'{"question": "a", "answer": Infinity}\n',
    "nothing after the mark": {"question": QUESTION, "answer": "1+1=2\n####"},
    "reasoning without end": {"question": QUESTION, "answer": "<think>1+1=2"},
    "reasoning without answer": {"question": QUESTION, "answer": "<think>1+1=2</think>"},
    "half a character": {"question": QUESTION, "answer": "\ud83d #### 2"},
    "level is an object": {"question": QUESTION, "answer": ANSWER, "level": {"of": 3}},
}


@pytest.mark.parametrize("kind", list(MALFORMED))
def test_each_malformed_kind_of_gsm8k_row_is_one_error_or_one_counted_drop(tmp_path: Path, kind: str) -> None:
    content = lines([*GOOD[:30], MALFORMED[kind], *GOOD[30:]])
    with pytest.raises(DataError, match=r"data.jsonl, line 31: ") as told:
        list(read_file(source(tmp_path, content)))
    assert len(str(told.value)) < 400 + len(str(tmp_path))
    bad = BadRecords()
    lenient = source(tmp_path, content, max_bad_share=0.05)
    assert len(list(read_file(lenient, bad=bad))) == 40
    assert bad.found == {f"{lenient.path}, line 31": str(told.value)}


def test_more_than_the_share_is_an_error_that_names_the_first(tmp_path: Path) -> None:
    content = lines([*GOOD[:36], b"{\n", b"[\n"])
    assert len(list(read_file(source(tmp_path, content, max_bad_share=0.06)))) == 36
    with pytest.raises(DataError, match=r"2 of 38 records are malformed, .* of 0.05. The first: .*line 37: not JSON"):
        list(read_file(source(tmp_path, content, max_bad_share=0.05)))


def test_every_reading_of_a_file_counts_its_malformed_records_once(tmp_path: Path) -> None:
    bad = BadRecords()
    lenient = source(tmp_path, lines([*GOOD, b"{\n"]), max_bad_share=0.5)
    for split in ("train", "validation", "test", "train"):
        list(load_examples(lenient, split=split, count=5, seed=0, bad=bad))  # type: ignore[arg-type]
    assert len(bad.found) == 1


def test_a_bad_row_of_a_table_does_not_end_it(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(b'question,answer\na,1\nb\nc,"3"x\nd,\xff\ne,5\n')
    bad = BadRecords()
    lenient = FileSource(type="file", path=str(path), max_bad_share=0.9)
    assert [example.key for example in read_file(lenient, bad=bad)] == ["a", "e"]
    assert [where.rpartition(" ")[2] for where in bad.found] == ["3", "4", "5"]


SCHEMA_KEYS = ("question", "answer", "prompt", "completion", "instruction", "input", "output", "messages")
MORE_KEYS = (
    "conversations",
    "role",
    "content",
    "from",
    "value",
    "system",
    "reasoning",
    "reasoning_content",
    "level",
    "choices",
    "options",
    "answerKey",
    "label",
    "text",
    "metadata",
    "tests",
    "context",
)
NAMES = st.sampled_from(SCHEMA_KEYS + MORE_KEYS)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
RECORDS = st.dictionaries(NAMES, JSON, max_size=4)


def _cut(content: bytes, at: int) -> bytes:
    return content[: at % (len(content) + 1)]


def _flipped(content: bytes, at: int) -> bytes:
    place = at % len(content)
    return content[:place] + bytes([content[place] ^ (1 << at % 8)]) + content[place + 1 :]


def _doubled(content: bytes, at: int) -> bytes:
    place = at % len(content)
    return content[:place] + content[place : place + 40] + content[place:]


@settings(deadline=None, max_examples=150)
@given(record=RECORDS)
def test_any_record_is_an_example_or_a_counted_drop(record: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        bad = BadRecords()
        read = list(read_file(source(Path(directory), lines([*GOOD, record]), max_bad_share=0.1), bad=bad))
        assert len(read) + len(bad.found) == 41
        for example in read:
            assert example.prompt[-1][0] == "user"
            assert all(text.strip() for _, text in example.prompt)
            assert example.answer is None or example.answer.strip()


@settings(deadline=None, max_examples=250)
@given(
    damage=st.sampled_from([_cut, _flipped, _doubled]),
    at=st.integers(0, 10**6),
    name=st.sampled_from(["jsonl", "json", "csv", "jsonl.gz", "parquet"]),
)
def test_any_damage_to_a_file_is_an_error_that_names_it_or_passes(
    damage: Callable[[bytes, int], bytes], at: int, name: str
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / f"data.{name}"
        path.write_bytes(damage(_whole(name), at))
        damaged = FileSource(type="file", path=str(path))
        for reading in (lambda: list(read_file(damaged)), lambda: expected_rows(damaged, split="train")):
            error = ""
            try:
                reading()
            except DataError as raised:
                error = str(raised)
            assert error == "" or error.startswith(str(path))


@cache
def _whole(kind: str) -> bytes:
    """The same rows as an undamaged file."""
    if kind == "csv":
        return b"question,answer\n" + b"".join(b'"q, %d","%d"\n' % (n, n) for n in range(20))
    if kind == "parquet":
        table = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(GOOD), table)
        return table.getvalue()
    if kind == "json":
        return json.dumps(GOOD[:20]).encode()
    return gzip.compress(lines(GOOD)) if kind == "jsonl.gz" else lines(list(GOOD[:20]))


def test_of_very_many_malformed_records_all_are_counted_and_the_first_thousand_described(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"prompt": "a", "completion": "1"}\n' * 2000 + "{\n" * 1500)
    source = FileSource(type="file", path=str(path), max_bad_share=0.5)
    bad = BadRecords()
    for split in ("train", "test"):
        load_examples(source, split=split, count=5, seed=0, bad=bad)  # type: ignore[arg-type]
    assert (bad.count, len(bad.found)) == (1500, 1000)
    assert list(bad.found)[-1].endswith("line 3000")
