"""A grader of the user's own: what it may return, what is said of a wrong one, and that its file decides."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eyas.errors import DataError, GradingError
from eyas.recipe import FileSource
from eyas.records import Example
from eyas.storage.verdicts import judge
from eyas.tasks import content_identities, load_examples


def written(directory: Path, body: str) -> str:
    path = directory / "mine.py"
    path.write_text(body)
    return f"{path}:check"


def example(grader: str, answer: str | None = "7", metadata: str = "") -> Example:
    return Example(key="k", prompt=(("user", "q"),), answer=answer, grader=grader, metadata=metadata)


def test_the_users_function_gives_the_verdict(tmp_path: Path) -> None:
    grader = written(
        tmp_path, "def check(answer, example):\n    return answer == example.answer or 0.5 * ('8' in answer)\n"
    )
    assert judge(["7", "8", "9"], [example(grader)] * 3) == [1.0, 0.5, 0.0]
    assert judge(["7"], [example(grader, answer=None)]) == [None]
    assert judge(["8"], [example(grader, answer=None, metadata="{}")]) == [0.5]


def test_numbers_of_numpy_and_dataclasses_of_the_file_work(tmp_path: Path) -> None:
    grader = written(
        tmp_path,
        "from __future__ import annotations\nfrom dataclasses import dataclass\nimport numpy as np\n"
        "@dataclass\nclass Parsed:\n    value: float\n"
        "def check(answer, example):\n    return np.isclose(Parsed(float(answer)).value, float(example.answer))\n",
    )
    assert judge(["7.0", "8"], [example(grader)] * 2) == [1.0, 0.0]


@pytest.mark.parametrize("value", ["None", "'yes'", "2", "-0.1", "float('nan')"])
def test_anything_but_a_share_is_refused(tmp_path: Path, value: str) -> None:
    grader = written(tmp_path, f"def check(answer, example):\n    return {value}\n")
    with pytest.raises(GradingError, match="expected True, False or a number from 0 to 1"):
        judge(["7"], [example(grader)])


def test_a_missing_file_or_function_is_named(tmp_path: Path) -> None:
    grader = written(tmp_path, "def chek(answer, example):\n    return True\n")
    with pytest.raises(GradingError, match="no function 'check'; it has: chek"):
        judge(["7"], [example(grader)])
    with pytest.raises(GradingError, match="the file does not exist"):
        judge(["7"], [example(f"{tmp_path}/none.py:check")])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "def check(answer, example):\n    return int(answer)",
            r"mine.py:check' failed on .*'no'.*ValueError.*line 2.*False",
        ),
        ("def check(answer, example):\n    raise SystemExit(0)", r"mine.py:check' failed on .*SystemExit"),
        ("import json\ndef check(answer, example):\n    return json.loads(answer)", r"JSONDecodeError: .*\(line 3\)\."),
        ("def check(answer):\n    return True", r"mine.py:check' failed on .*TypeError.*positional"),
        ("import no_such_module", r"mine.py:check': the file cannot be run: ModuleNotFoundError.*line 1"),
        ("def check(:", r"mine.py:check': the file cannot be run: SyntaxError"),
        ("x = 1 / 0", r"mine.py:check': the file cannot be run: ZeroDivisionError.*line 1"),
        ("import sys\nsys.exit(3)", r"mine.py:check': the file cannot be run: SystemExit: 3"),
        ("check = 7", r"mine.py:check': the file has no function 'check'"),
    ],
)
def test_whatever_the_users_code_raises_is_one_error_that_names_it(tmp_path: Path, body: str, message: str) -> None:
    grader = written(tmp_path, body)
    with pytest.raises(GradingError, match=message):
        judge(["no"], [example(grader)])


def test_what_the_file_does_on_import_happens_once(tmp_path: Path) -> None:
    noted = f"with open({str(tmp_path / 'log')!r}, 'a') as log:\n    log.write('x')\n"
    grader = written(tmp_path, f"{noted}def check(answer, example):\n    return True\n")
    assert judge(["7"] * 3, [example(grader)] * 3) == [1.0] * 3
    assert (tmp_path / "log").read_text() == "x"


def test_the_file_counts_for_the_fingerprint_and_metadata_reach_the_function(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    rows = [{"prompt": f"q{number}", "completion": "a", "metadata": {"n": number}} for number in range(40)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    body = "import json\n\ndef check(answer, example):\n    return int(answer) == json.loads(example.metadata)['n']\n"
    source = FileSource(type="file", path=str(data), grader=written(tmp_path, body))
    (first, *_) = load_examples(source, split="train", count=1, seed=0)
    assert judge([first.prompt[-1][1][1:]], [first]) == [1.0]
    before = content_identities(source)
    written(tmp_path, body + "\n")
    assert content_identities(source) != before
    (tmp_path / "mine.py").unlink()
    with pytest.raises(DataError, match="the grader's file cannot be read"):
        content_identities(source)
