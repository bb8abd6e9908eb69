"""Malformed variants of the raw GSM8K file through `eyas` itself: each is one clear error, or one counted drop.

Where the damage stands, and what of a record it hits, is drawn at random.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from eyas.cli import main
from eyas.errors import DataError
from eyas.recipe import FileSource
from eyas.storage.artifacts import read_json
from eyas.tasks.files import read_file
from eyas.tasks.mapping import BadRecords

GSM8K = Path(__file__).parents[2] / "shared" / "data" / "gsm8k"
pytestmark = pytest.mark.skipif(not GSM8K.is_dir(), reason="the GSM8K files are not beside this checkout")
COUNT = 400
"""Rows of the file that are damaged: enough for answers in every split."""
SEEDS = range(12)

Row = dict[str, str]
Malform = Callable[[Row, Random], Any]


def cut(text: bytes, rng: Random) -> bytes:
    return text[: rng.randrange(1, len(text) - 1)]


def within(text: str, insert: str, rng: Random) -> str:
    at = rng.randrange(1, len(text) - 1)
    return text[:at] + insert + text[at:]


def line(row: Row) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode()


def nested(row: Row, rng: Random) -> bytes:
    depth = rng.randrange(50_000, 150_000)
    return b'{"question": "q", "answer": "1", "x": ' + b"[" * depth + b"]" * depth + b"}"


def unquoted(row: Row, rng: Random) -> bytes:
    return line(row).replace(rng.choice([b'"question":', b'"answer":']), b"question:", 1)


def latin(row: Row, rng: Random) -> bytes:
    return f'{{"question": "{within("Wie viel?", "é", rng)}"}}'.encode("latin-1")


def with_half(row: Row, rng: Random) -> Row:
    return row | {"question": within(row["question"], chr(rng.randrange(0xD800, 0xE000)), rng)}


def unanswered(row: Row, rng: Random) -> Row:
    return row | {"answer": row["answer"].rpartition("####")[0] + "####" + rng.choice(["", " "])}


def chat(*turns: tuple[Any, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def twice(row: Row, rng: Random) -> bytes:
    return line(row)[:-1] + b', "' + rng.choice([b"question", b"answer"]) + b'": "7"}'


ROW_KINDS: dict[str, Malform] = {
    "cut off": lambda row, rng: cut(line(row), rng),
    "two on a line": lambda row, rng: line(row) * rng.randrange(2, 5),
    "single quotes": lambda row, rng: str(row).replace('"', "'").encode(),
    "curly quotes": lambda row, rng: line(row).replace(b'"', "”".encode()),
    "trailing comma": lambda row, rng: line(row)[:-1] + b",}",
    "key without quotes": unquoted,
    "the same key twice": twice,
    "a comment": lambda row, rng: rng.choice([b"// ", b"# "]) + line(row),
    "not UTF-8": latin,
    "null bytes": lambda row, rng: b"\0" * rng.randrange(1, 200),
    "a NUL character": lambda row, rng: row | {"answer": within(row["answer"], "\0", rng)},
    "control character": lambda row, rng: line(row).replace(b" ", bytes([rng.randrange(1, 9)]), 20),
    "half a character": with_half,
    "half a character in a key": lambda row, rng: {chr(rng.randrange(0xD800, 0xE000)): row["answer"]},
    "deeply nested": nested,
    "endless digits": lambda row, rng: b'{"question": "q", "answer": ' + b"9" * rng.randrange(4301, 9000) + b"}",
    "not a number": lambda row, rng: row | {"answer": rng.choice([float("nan"), float("inf"), -float("inf")])},
    "a table's header": lambda row, rng: b"question,answer",
    "a list": lambda row, rng: list(row.values()),
    "a text": lambda row, rng: row["question"],
    "a number": lambda row, rng: rng.randrange(10**9),
    "null": lambda row, rng: None,
    "no keys": lambda row, rng: {},
    "other keys": lambda row, rng: {key + rng.choice("s_ "): value for key, value in row.items()},
    "upper case keys": lambda row, rng: {key.upper(): value for key, value in row.items()},
    "answer alone": lambda row, rng: {"answer": row["answer"]},
    "no question": lambda row, rng: row | {"question": None},
    "empty question": lambda row, rng: row | {"question": rng.choice(["", " \n", "\u200b", "\ufeff"])},
    "question is no text": lambda row, rng: row | {"question": rng.choice([{"text": "q"}, True, ["q"], []])},
    "answer is no text": lambda row, rng: row | {"answer": rng.choice([{"text": ["1"]}, ["1"], [1], [], False])},
    "empty answer": lambda row, rng: row | {"answer": rng.choice(["", "  ", "\n"])},
    "nothing after the mark": unanswered,
    "two marks in a line": lambda row, rng: row | {"answer": row["answer"] + " #### 7"},
    "reasoning without end": lambda row, rng: row | {"answer": "<think>" + row["answer"]},
    "reasoning without answer": lambda row, rng: row | {"answer": f"<think>{row['answer']}</think>"},
    "reasoning twice": lambda row, rng: row | {"answer": f"<think>a</think>b<think>c</think>{row['answer']}"},
    "unknown role": lambda row, rng: chat((rng.choice(["tool", "bot", "", None, 3]), "a")),
    "chat without a user": lambda row, rng: chat(("assistant", row["answer"])),
    "two replies": lambda row, rng: chat(("user", "q"), ("assistant", "a"), ("assistant", "b")),
    "an image": lambda row, rng: chat(("user", [{"type": "image_url", "image_url": {"url": "u"}}])),
    "answer is no choice": lambda row, rng: row | {"choices": ["x", "y", "z"]},
}  # fmt: skip


def malformed(kind: str, row: Row, rng: Random) -> bytes:
    found = ROW_KINDS[kind](row, rng)
    return found if isinstance(found, bytes) else json.dumps(found).encode()


def raw_lines() -> list[bytes]:
    return (GSM8K / "train.jsonl").read_bytes().splitlines()[:COUNT]


def damaged(kind: str, seed: int) -> tuple[list[bytes], int]:
    """The file's lines with one of this kind among them, and its number."""
    lines, rng = raw_lines()[:40], Random(f"{kind} {seed}")
    at = rng.randrange(len(lines) + 1)
    return [*lines[:at], malformed(kind, json.loads(rng.choice(lines)), rng), *lines[at:]], at + 1


@pytest.mark.parametrize("kind", ROW_KINDS)
def test_a_malformed_row_is_one_error_or_one_drop_wherever_it_stands(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "data.jsonl"
    for seed in SEEDS:
        lines, number = damaged(kind, seed)
        path.write_bytes(b"\n".join(lines) + b"\n" * (seed % 2))
        with pytest.raises(DataError) as told:
            list(read_file(FileSource(type="file", path=str(path))))
        assert str(told.value).startswith((f"{path}, line {number}: ", f"{path}, line {number}, message 1: "))
        bad = BadRecords()
        read = list(read_file(FileSource(type="file", path=str(path), max_bad_share=0.1), bad=bad))
        assert (len(read), dict(bad.found)) == (40, {f"{path}, line {number}": str(told.value)})


def eyas(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["eyas", *arguments])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def recipe_file(directory: Path, data: Path | str, **source: Any) -> str:
    """A recipe that only prepares: the student is there because a recipe needs one."""
    prepare = {"type": "prepare", "labelled": 40, "unlabelled": 20, "validation": 4, "test": 8}
    prepare["source"] = {"type": "file", "path": str(data), **source}
    path = directory / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "gsm8k", "student": "builtin:nano-student", "stages": [prepare]}))
    return str(path)


def one_sentence(told: str, path: Path | str) -> bool:
    """One line for the user, which begins with the file, and no traceback."""
    return told.startswith(f"DataError: {path}") and told.count("\n") == 1 and len(told) < 600 + len(str(path))


def test_all_kinds_of_malformed_rows_in_one_file_are_counted_by_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng, lines = Random(4), raw_lines()
    for kind in ROW_KINDS:
        lines.insert(rng.randrange(len(lines)), malformed(kind, json.loads(raw_lines()[0]), rng))
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"\n".join(lines))
    prepare = ("prepare", recipe_file(tmp_path, path, max_bad_share=0.2), "--out", str(tmp_path))
    assert eyas(monkeypatch, *prepare) == 0
    (made,) = (tmp_path / "artifacts").glob("prepare-*")
    assert read_json(made / "manifest.json")["facts"]["dropped"]["malformed"] == len(ROW_KINDS) >= 20
    dropped = list(map(json.loads, (made / "dropped.jsonl").read_text().splitlines()))
    told = [row["error"] for row in dropped if row["reason"] == "malformed"]
    assert len({error.partition(": ")[2] for error in told}) > 20
    assert all(error.startswith(f"{path}, line ") for error in told)

    assert eyas(monkeypatch, "prepare", recipe_file(tmp_path, path), "--out", str(tmp_path / "strict")) == 1
    assert one_sentence(capsys.readouterr().err, f"{path}, line ")


def parquet(lines: list[bytes], **columns: Any) -> bytes:
    buffer = io.BytesIO()
    rows = list(map(json.loads, lines))
    table = pa.table({name: pa.array([row[name] for row in rows]) for name in ("question", "answer")} | columns)
    pq.write_table(table, buffer)
    return buffer.getvalue()


def table_of(lines: list[bytes], header: str = "question,answer") -> bytes:
    cells = [[json.loads(line)[key].replace('"', '""') for key in ("question", "answer")] for line in lines]
    return "\r\n".join([header, *('"' + '","'.join(row) + '"' for row in cells)]).encode()


def array(lines: list[bytes]) -> bytes:
    return b"[" + b",\n".join(lines) + b"]"


Spoil = Callable[[list[bytes], Random], bytes]
FILE_KINDS: dict[str, tuple[str, Spoil]] = {
    "empty": ("data.jsonl", lambda lines, rng: b"\n" * rng.randrange(3)),
    "UTF-16": ("data.jsonl", lambda lines, rng: b"\n".join(lines).decode().encode(rng.choice(["utf-16", "utf-16-le"]))),
    "UTF-16 table": ("data.csv", lambda lines, rng: table_of(lines).decode().encode("utf-16")),
    "carriage returns alone": ("data.jsonl", lambda lines, rng: b"\r".join(lines)),
    "gzip without its name": ("data.jsonl", lambda lines, rng: gzip.compress(b"\n".join(lines))),
    "its name without gzip": ("data.jsonl.gz", lambda lines, rng: b"\n".join(lines)),
    "cut gzip": ("data.jsonl.gz", lambda lines, rng: cut(gzip.compress(b"\n".join(lines)), rng)),
    "zstd": ("data.jsonl.zst", lambda lines, rng: b"\x28\xb5\x2f\xfd" + rng.randbytes(200)),
    "an Excel file": ("data.xlsx", lambda lines, rng: b"PK\x03\x04" + rng.randbytes(200)),
    "a Git LFS pointer": ("data.parquet", lambda lines, rng: b"version https://git-lfs.github.com/spec/v1\noid 1\n"),
    "a web page": ("data.jsonl", lambda lines, rng: b"\n<!DOCTYPE html>\n<html></html>"),
    "Parquet by another name": ("data.jsonl", lambda lines, rng: parquet(lines)),
    "another kind as Parquet": ("data.parquet", lambda lines, rng: b"\n".join(lines)),
    "cut Parquet": ("data.parquet", lambda lines, rng: cut(parquet(lines), rng)),
    "Parquet without rows": ("data.parquet", lambda lines, rng: parquet([])),
    "a struct as question": ("data.parquet", lambda lines, rng: parquet(lines[:1], question=pa.array([{"text": "q"}]))),
    "bytes as question": ("data.parquet", lambda lines, rng: parquet(lines[:1], question=pa.array([b"\xff"]))),
    "a header alone": ("data.csv", lambda lines, rng: b"question,answer\r\n"),
    "a column twice": ("data.csv", lambda lines, rng: table_of(lines, "question,question")),
    "no header": ("data.csv", lambda lines, rng: table_of(lines).partition(b"\r\n")[2]),
    "an open quote": ("data.csv", lambda lines, rng: table_of(lines) + b'\r\n"q,1\r\n'),
    "a row of another width": ("data.csv", lambda lines, rng: table_of(lines) + b"\r\nq,1,2"),
    "array without end": ("data.json", lambda lines, rng: array(lines)[: -rng.randrange(1, 50)]),
    "array without a comma": ("data.json", lambda lines, rng: array(lines).replace(b",\n", b"\n", 1)),
    "bad element of an array": ("data.json", lambda lines, rng: array([*lines, b'{"question": }', *lines])),
    "text after an array": ("data.json", lambda lines, rng: array(lines) + rng.choice([b"]", b"x", b"[]"])),
    "columns, not rows": ("data.json", lambda lines, rng: b'{"question": {"0": "q"}, "answer": {"0": "1"}}'),
    "rows inside an object": ("data.json", lambda lines, rng: b'{"data": ' + array(lines) + b"}"),
    "one object over lines": ("data.json", lambda lines, rng: json.dumps(json.loads(lines[0]), indent=2).encode()),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILE_KINDS)
def test_a_malformed_file_is_one_error_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    name, spoil = FILE_KINDS[kind]
    path = tmp_path / name
    path.write_bytes(spoil(raw_lines()[:60], Random(kind)))
    assert eyas(monkeypatch, "prepare", recipe_file(tmp_path, path), "--out", str(tmp_path)) == 1
    assert one_sentence(capsys.readouterr().err, path)


def fifo(path: Path) -> Path:
    os.mkfifo(path / "data.jsonl")
    return path / "data.jsonl"


def of_two_kinds(path: Path) -> Path:
    (path / "a.jsonl").write_bytes(raw_lines()[0])
    (path / "b.csv").write_bytes(table_of(raw_lines()[:1]))
    return path


def of_two_splits(path: Path) -> Path:
    for split in ("train", "test"):
        (path / f"{split}-00000-of-00001.jsonl").write_bytes(raw_lines()[0])
    return path


PLACES: dict[str, Callable[[Path], Path]] = {
    "nothing": lambda path: path / "none.jsonl",
    "a pipe": fifo,
    "an empty directory": lambda path: path,
    "two kinds": of_two_kinds,
    "two splits": of_two_splits,
    "a pattern of nothing": lambda path: path / "*.jsonl",
    "a file as directory": lambda path: of_two_kinds(path) / "a.jsonl" / "b.jsonl",
    "a name too long": lambda path: path / ("x" * 300),
}


@pytest.mark.parametrize("kind", PLACES)
def test_a_place_that_holds_no_data_is_one_error_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    (tmp_path / "data").mkdir()
    place = PLACES[kind](tmp_path / "data")
    assert eyas(monkeypatch, "plan", recipe_file(tmp_path, place), "--out", str(tmp_path / "runs")) == 1
    assert one_sentence(capsys.readouterr().err, str(place)[:200])
