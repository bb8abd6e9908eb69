"""`eyas evaluate MODEL --data FILE`: what it measures, writes, keeps and refuses."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from eyas.measurement import Measure, distinct_examples
from eyas.proportions import wilson
from eyas.recipe import ExecutionSpec, FileSource, SamplingSpec
from eyas.records import SequenceRecord
from eyas.stats import paired_difference
from eyas.storage.shards import read_records
from eyas.storage.tokenization import load_tokenizer

STUDENT, TEACHER = "builtin:nano-student", "builtin:nano-teacher"
QUICK = ("--max-tokens", "64", "--modes", "fast")


def eyas(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command line, run in this process."""
    from eyas.cli import main

    out, err = io.StringIO(), io.StringIO()
    argv, sys.argv = sys.argv, ["eyas", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.argv = argv
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "sums.jsonl"
    rows = [
        {"prompt": f"{a}+{b}", "completion": str(a + b), "level": "even" if a % 2 == 0 else "odd"}
        for a, b in [(12, 30), (11, 15), (40, 13), (21, 22), (34, 25), (17, 11), (50, 45), (63, 36)]
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"prompt": "1+1"}]))
    return path


def only(workspace: Path, name: str = "evaluation.json", model: str = "nano-student") -> Path:
    (found,) = (path for path in (workspace / "evaluations").glob(f"*/{name}") if model in path.parent.name)
    return found


def test_the_numbers_follow_from_the_predictions(sums: Path, tmp_path: Path) -> None:
    code, out, err = eyas("evaluate", STUDENT, "--data", sums, "--out", tmp_path, *QUICK)
    assert code == 0, err
    file = only(tmp_path)
    facts = json.loads(file.read_text())
    records = list(read_records(file.parent / "predictions", kind=SequenceRecord))
    assert len(records) == facts["examples"] == 8
    assert facts["unanswered"] == 1
    assert "1 that cannot be graded left out" in " ".join(out.split())
    right = sum(record.grade == 1.0 for record in records)
    found = facts["accuracy"]["fast"]
    assert (found["value"], found["n"]) == (right / 8, 8)
    assert (found["low"], found["high"]) == wilson(right, 8)
    assert found["mean_tokens"] == sum(len(record.completion_ids) for record in records) / 8
    assert found["truncated"] == sum(record.finish_reason == "length" for record in records) / 8
    assert {name: part["n"] for name, part in facts["by_level"]["fast"].items()} == {"even": 4, "odd": 4}
    assert facts["settings"]["sampling"]["max_completion_tokens"] == 64
    assert facts["settings"]["thinking"]["template_argument"] == "enable_thinking"


def test_the_same_command_keeps_whole_shards_and_other_settings_go_elsewhere(sums: Path, tmp_path: Path) -> None:
    command = ("evaluate", STUDENT, "--data", sums, "--out", tmp_path, *QUICK)
    assert eyas(*command)[0] == 0
    first = only(tmp_path)
    (shard,) = (first.parent / "predictions").glob("*.parquet")
    before, text = shard.stat().st_mtime_ns, first.read_text()
    assert eyas(*command)[0] == 0
    assert shard.stat().st_mtime_ns == before
    assert only(tmp_path).read_text() == text
    shard.write_bytes(shard.read_bytes()[:-7])
    assert eyas(*command)[0] == 0
    assert only(tmp_path).read_text() == text
    assert eyas(*command, "--limit", "4")[0] == 0
    counts = [json.loads(path.read_text())["examples"] for path in (tmp_path / "evaluations").glob("*/evaluation.json")]
    assert sorted(counts) == [4, 8]


def test_a_baseline_is_compared_example_by_example(sums: Path, tmp_path: Path) -> None:
    code, out, err = eyas("evaluate", STUDENT, "--baseline", TEACHER, "--data", sums, "--out", tmp_path, *QUICK)
    assert code == 0, err
    grades = []
    for model in ("nano-student", "nano-teacher"):
        directory = only(tmp_path, model=model).parent / "predictions"
        grades.append([record.grade or 0.0 for record in read_records(directory, kind=SequenceRecord)])
    expected = paired_difference(*grades)
    found = json.loads(only(tmp_path, "comparison-*.json").read_text())["modes"]["fast"]
    assert (found["difference"], found["p_value"], found["n"]) == (expected.difference, expected.p_value, 8)
    assert "McNemar p" in out


def test_samples_give_pass_at_k_and_do_not_count_as_examples(sums: Path, tmp_path: Path) -> None:
    sampled = ("--samples", "4", "--temperature", "1.0")
    code, out, err = eyas("evaluate", TEACHER, "--data", sums, "--out", tmp_path, *QUICK, *sampled)
    assert code == 0, err
    file = only(tmp_path, model="nano-teacher")
    records = list(read_records(file.parent / "predictions", kind=SequenceRecord))
    facts = json.loads(file.read_text())
    found, passed = facts["accuracy"]["fast"], facts["pass_at_k"]["fast"]
    assert len(records) == 32
    assert found["n"] == 8
    assert found["value"] == pytest.approx(sum(record.grade == 1.0 for record in records) / 32)
    solved = {record.example_id for record in records if record.grade == 1.0}
    assert list(passed) == ["1", "2", "4"]
    assert passed["1"]["value"] == pytest.approx(found["value"])
    assert passed["4"]["value"] == pytest.approx(len(solved) / 8)  # pass@4 of four: any of them
    assert "pass@4" in out


def test_repeated_problems_count_once_and_prompts_too_long_for_the_model_are_wrong(tmp_path: Path) -> None:
    rows = [{"prompt": f"{a}+11", "completion": str(a + 11)} for a in (12, 23, 31)]
    rows += [rows[0], rows[2], rows[0], {"prompt": "12+30 " * 200, "completion": "42"}]
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, err = eyas("evaluate", STUDENT, "--data", path, "--out", tmp_path, "--baseline", TEACHER, *QUICK)
    assert code == 0, err
    facts = json.loads(only(tmp_path).read_text())
    assert (facts["examples"], facts["repeated"], facts["too_long"]) == (4, 3, 1)
    assert facts["accuracy"]["fast"]["n"] == 4
    (cut,) = [
        record
        for record in read_records(only(tmp_path).parent / "predictions", kind=SequenceRecord)
        if not record.completion_ids
    ]
    assert (cut.finish_reason, cut.grade) == ("length", 0.0)
    assert json.loads(only(tmp_path, "comparison-*.json").read_text())["modes"]["fast"]["n"] == 4
    told = " ".join(out.split())
    assert "3 that repeat an earlier problem left out" in told
    assert "1 whose prompt does not fit into the model's context counted as wrong" in told


@pytest.mark.parametrize("limit", [2, 6, 12, 99])
def test_a_limit_is_of_distinct_problems_that_can_be_graded(limit: int, tmp_path: Path) -> None:
    rows = [{"prompt": f"{a}+11", "completion": str(a + 11)} for a in range(12, 24) for _ in range(30)]
    rows += [{"prompt": f"{a}+22"} for a in range(12, 24)]
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    measure = Measure(
        data=FileSource(type="file", path=str(path), test_path=str(path)),
        sampling=SamplingSpec(), execution=ExecutionSpec(), limit=limit,
    )  # fmt: skip
    whole, _ = distinct_examples(replace(measure, limit=None))
    found, left_out = distinct_examples(measure)
    assert len({example.id for example in whole}) == len(whole) == 12
    assert found == whole[:limit], "a limit takes the first of them"
    # The repeats of one problem lie beside each other, and nothing after the last that is taken is looked at.
    told = {"unanswered": 12, "repeated": 12 * 29} if limit > 12 else {"unanswered": 0, "repeated": (limit - 1) * 29}
    assert left_out == told


def test_the_numbers_say_what_they_hang_on_and_come_by_level_and_source(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name, first in (("easy", 12), ("hard", 41)):
        lines = [json.dumps({"prompt": f"{first}+{b}", "completion": str(first + b)}) + "\n" for b in (11, 13)]
        (tmp_path / "data" / f"{name}.jsonl").write_text("".join(lines))
    shorter = ("--max-tokens", "24", "--modes", "fast", "--samples", "3", "--temperature", "0.7")
    code, out, err = eyas("evaluate", STUDENT, "--data", tmp_path / "data", "--out", tmp_path, *shorter)
    assert code == 0, err
    facts = json.loads(only(tmp_path).read_text())
    assert list(facts["pass_at_k"]["fast"]) == ["1", "2", "3"]
    assert facts["graders"] == ["numeric"]
    tokenizer = load_tokenizer(Path(__file__).parents[1] / "src/eyas/builtin/nano-student")
    records = read_records(only(tmp_path).parent / "predictions", kind=SequenceRecord)
    asked = {record.example_id: tokenizer.decode(record.prompt_ids) for record in records}
    texts = [text for _, text in sorted(asked.items())]
    assert facts["prompts_sha256"] == {"fast": hashlib.sha256(json.dumps(texts).encode()).hexdigest()}
    assert facts["template_sha256"] == hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()
    assert {"torch", "transformers", "eyas", "python"} <= facts["made_on"].keys()
    assert "95 % intervals" in out
    assert max(map(len, out.splitlines()[:-1])) <= 80


def test_an_interrupt_says_that_the_same_command_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "sums.jsonl"
    rows = [json.dumps({"prompt": f"{a}+{b}", "completion": str(a + b)}) for a in range(11, 61) for b in range(11, 61)]
    path.write_text("\n".join(rows))
    command = ["evaluate", STUDENT, "--data", str(path), "--out", str(tmp_path), *QUICK]
    process = subprocess.Popen([sys.executable, "-m", "eyas", *command], stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not list(tmp_path.glob("evaluations/*-student-*/.holder.json")) and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "The same command continues" in err


def test_a_baseline_that_is_not_there_is_found_before_anything_is_answered(sums: Path, tmp_path: Path) -> None:
    code, _, err = eyas("evaluate", STUDENT, "--baseline", "./nowhere", "--data", sums, "--out", tmp_path, *QUICK)
    assert code == 1
    assert "no such directory" in err
    assert not list(tmp_path.glob("evaluations/*/predictions"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([STUDENT], "expected one of --data FILE"),
        ([STUDENT, "--data", "{data}", "--samples", "2"], "--temperature 0.7 samples"),
        ([STUDENT, "--data", "{data}", "--modes", "quick"], "expected reasoning and fast"),
        ([STUDENT, "--data", "{data}", "--thinking", "deep"], "known: plain, qwen3, pangu"),
        ([STUDENT, "--data", "{data}", "--name", "x"], "taken for a model"),
        (["x.yaml", "--data", "{data}"], "is a recipe"),
        (["x.yaml", "--max-tokens", "64", "--seed", "1"], "Drop --max-tokens and --seed"),
        (["x.yaml", "--no-chat-template"], "Drop --chat-template"),
        ([STUDENT, "--data", "{data}", "--suite", "paper"], "found --data and --suite"),
        ([STUDENT, "--data", "{data}", "--unsafe-code"], "Drop --unsafe-code"),
        ([STUDENT, "--suite", "paper", "--baseline", TEACHER], "Drop --baseline"),
        ([STUDENT, "--suite", "paper", "--modes", "fast,reasoning"], "one mode at a time"),
        (["./nowhere", "--data", "{data}"], "no such directory"),
        (["{here}", "--data", "{data}"], "holds no config.json"),
        ([STUDENT, "--data", "{here}/none.jsonl"], "cannot be read"),
        ([STUDENT, "--data", "{here}/prompts.jsonl"], "examples can be graded"),
    ],
)
def test_what_cannot_be_is_one_clear_error(sums: Path, tmp_path: Path, arguments: list[str], words: str) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "1+1"}\n')
    filled = [argument.format(data=sums, here=tmp_path) for argument in arguments]
    code, _, err = eyas("evaluate", *filled, "--out", tmp_path / "runs")
    assert code == 1
    assert words in err
    assert "Traceback" not in err
