"""Files of every kind give the same rows, in bounded memory, and say clearly where they cannot be read."""

from __future__ import annotations

import csv
import gzip
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eyas.errors import DataError
from eyas.recipe import FileSource
from eyas.tasks import content_identities, load_examples
from eyas.tasks.files import expected_rows, read_file
from eyas.tasks.readers import count_rows, rows_of

ROWS = [{"prompt": f'Say "{n}",\nplease: ä🙂', "completion": str(n) if n % 3 else None} for n in range(1000)]
TEXT_KINDS = ("jsonl", "json", "csv", "tsv")


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A file of the kind that its name says."""
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    text = io.StringIO()
    if kind == "jsonl":
        text.write("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "json":
        json.dump(rows, text, indent=1, ensure_ascii=False)
    else:
        table = csv.DictWriter(text, list(rows[0]), delimiter="," if kind == "csv" else "\t")
        table.writeheader()
        table.writerows(rows)
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", [*TEXT_KINDS, *(f"{kind}.gz" for kind in TEXT_KINDS), "parquet"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / f"data.{name}", ROWS)
    assert [row for _, row in rows_of(path)] == ROWS
    assert count_rows(path) == len(ROWS)
    examples = list(read_file(FileSource(type="file", path=str(path))))
    assert sum(example.answer is None for example in examples) == 334


def test_lines_in_a_json_file_are_read_as_lines_and_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\n{"prompt": "b"}\n')
    assert [row for _, row in rows_of(path)] == [{"prompt": "a"}, {"prompt": "b"}]
    path.write_bytes(b'\xef\xbb\xbf [ {"prompt": "a"} ]\n')
    assert [row for _, row in rows_of(path)] == [{"prompt": "a"}]


def test_a_directory_is_its_shards_in_the_order_of_their_names(tmp_path: Path) -> None:
    for number in (2, 0, 1):
        written(tmp_path / f"part-{number}.jsonl.gz", ROWS[number * 10 : number * 10 + 10])
    (tmp_path / "README.md").write_text("not data")
    (tmp_path / ".hidden.csv").write_text("not data")
    source = FileSource(type="file", path=str(tmp_path))
    assert [row for _, row in rows_of(tmp_path)] == ROWS[:30]
    assert expected_rows(source, split="train") == round(30 * 0.85)
    assert len(list(load_examples(source, split="train", count=100, seed=0))) > 15
    before = content_identities(source)
    written(tmp_path / "part-3.jsonl.gz", ROWS[:1])
    assert content_identities(source)[:3] == before
    assert len(content_identities(source)) == 4
    written(tmp_path / "part-4.csv", ROWS[:1])
    with pytest.raises(DataError, match=r"holds csv and jsonl files. Keep shards of one kind"):
        list(rows_of(tmp_path))


def test_records_longer_than_what_is_read_at_once_stay_whole(tmp_path: Path) -> None:
    rows = [{"prompt": str(n) + '[{é\\"' * size} for n, size in enumerate((1, 20_000, 3, 90_000, 0))]
    for kind in ("json", "csv", "parquet"):
        assert [row for _, row in rows_of(written(tmp_path / f"data.{kind}", rows))] == rows


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'[{"prompt": "a"}, {"prompt": ]', r"a.json, record 2: not JSON"),
        ("a.json", b'[{"prompt": "a"}', r"record 2: not JSON \(the file ends too early\)"),
        ("a.json", b'[{"prompt": "a"}] x', r"more text after the array's end"),
        ("a.json", b'[{"prompt": "a"} {"prompt": "b"}]', r"record 2: not JSON \(expected ',', found '{'\)"),
        ("a.json", b'[{"prompt": "a"},', r"record 2: not JSON \(the file ends too early\)"),
        ("a.json", b'[{"prompt": "a}]', r"record 1: not JSON \(Unterminated string"),
        ("a.json", b'[{"prompt": "\xff"}]', r"not UTF-8"),
        ("a.json", b"[" * 100_000, r"record 1: not JSON"),
        ("a.json", b"[1]", r"record 1: expected an object, found int"),
        ("a.json", b"[]", r"holds no records"),
        ("a.csv", b"", r"holds no records"),
        ("a.csv", b"prompt,completion\n", r"holds no records"),
        ("a.csv", b"prompt,prompt\na,b\n", r"line 1: the header names 'prompt' more than once"),
        ("a.csv", b'"prompt\n', r"line 1: the header is not readable"),
        ("a.csv", b"prompt,completion\na,b\nc\n", r"line 3: 1 cells, but the header names 2 columns"),
        ("a.csv", b'prompt,completion\na,"b"c\n', r"line 2: not a row of the table"),
        ("a.csv", b'prompt,completion\na,"b\n', r"line 2: not a row of the table \(unexpected end of data\)"),
        ("a.csv", b"prompt,completion\n\xff,b\n", r"line 2: not UTF-8"),
        ("a.csv", b"prompt,completion\n,b\n", r"line 2: `prompt` must be text, found nothing"),
        ("a.csv", b"text\na\n", r"line 2: expected one of `messages`, .* found the keys: text"),
        ("a.tsv", b"prompt completion\na b\n", r"found the keys: prompt completion"),
        ("a.parquet", b"PAR1 but no table", r"a.parquet, after row 0: not readable as Parquet"),
        ("a.parquet", b"", r"not readable as Parquet"),
        ("a.jsonl.gz", b'{"prompt": "a"}\n', r"cannot be read \(Not a gzipped file"),
        ("a.jsonl.gz", gzip.compress(b'{"prompt": "a"}\n' * 99, mtime=0)[:-9], r"cannot be read"),
        ("a.jsonl.gz", gzip.compress(b'{"prompt": "a"}\n' * 99, mtime=0)[:20] + b"\xff" * 20, r"cannot be read"),
    ],
)
def test_a_malformed_file_is_one_clear_error(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(read_file(FileSource(type="file", path=str(tmp_path / name))))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"prompt;completion\na,b;1\n"),
        ("a.csv", b"prompt\tcompletion\na,b\t1\n"),
        ("a.tsv", b'prompt,completion\n"a,b",1\n'),
        ("a.csv", b',prompt,completion,,\n0,"a,b",1,,\n'),
        ("a.jsonl", b'[{"prompt": "a,b", "completion": "1"}]'),
        ("a.jsonl", b'\xef\xbb\xbf[\n {\n  "prompt": "a,b",\n  "completion": "1"\n }\n]\n'),
    ],
    ids=["semicolons", "tabs", "commas", "columns without a name", "array", "array over lines"],
)
def test_what_a_name_says_wrongly_and_the_content_says_plainly_is_read(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    assert [row for _, row in rows_of(tmp_path / name)] == [{"prompt": "a,b", "completion": "1"}]
    assert count_rows(tmp_path / name) == 1


def test_a_bad_element_does_not_end_an_array(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n}]", "completion": "[,{" * (n % 40)} for n in range(20_000)]
    elements = [json.dumps(row).encode() for row in rows]
    bad = [
        b'{"prompt": }',
        b"nothing",
        b'{"prompt": "a", "prompt": "b"}',
        b'{"prompt": "\xff"}',
        b"[" * 2000 + b"]" * 2000,
    ]
    bad.append(b'{"a": [{"b": "\\"]}", "c"}]}')
    for number, element in enumerate(bad):
        elements.insert(7 + 3000 * number, element)
    path = tmp_path / "data.json"
    path.write_bytes(b"[" + b", ".join(elements) + b"]")
    found = [row for _, row in rows_of(path)]
    errors = [number for number, row in enumerate(found) if isinstance(row, DataError)]
    assert errors == [7 + 3000 * number for number in range(len(bad))]
    assert [row for row in found if not isinstance(row, DataError)] == rows
    assert [str(found[number]).partition("record ")[2].partition(":")[0] for number in errors] == [
        str(number + 1) for number in errors
    ]


def test_a_pattern_is_the_files_that_it_matches_and_a_tilde_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate(("train-0", "train-1", "test-0")):
        written(tmp_path / f"{name}.jsonl", ROWS[number : number + 1])
    monkeypatch.setenv("HOME", str(tmp_path))
    assert [row for _, row in rows_of("~/train-*.jsonl")] == ROWS[:2]
    with pytest.raises(DataError, match=r"several splits \(test, train\), which must not be mixed. .*/train\*`"):
        list(rows_of("~"))


def test_a_directory_without_data_says_what_it_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no data files. Expected shards named \*.jsonl"):
        list(rows_of(tmp_path))


@pytest.mark.parametrize("kind", ["json", "csv", "parquet", "jsonl.gz"])
def test_a_file_larger_than_the_memory_it_may_use_streams(tmp_path: Path, kind: str) -> None:
    """96 MiB of text in one row group, array or compressed stream; 64 MiB more than at the start may be used."""
    rows = [{"prompt": f"{n} " + "x" * 8192, "completion": "1"} for n in range(12 * 1024)]
    path = written(tmp_path / f"data.{kind}", rows)
    script = (
        "import resource, sys; from pathlib import Path; from eyas.tasks.readers import rows_of\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "before = peak(); count = sum(1 for _ in rows_of(Path(sys.argv[1])))\n"
        "print(count, peak() - before)"
    )
    told = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True).stdout
    count, grown_mib = map(int, told.split())
    assert count == 12 * 1024
    assert grown_mib < 64
