"""Graders that may take for ever: wrong at the limit, the rest goes on, from any thread, and confined."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eyas.errors import GradingError
from eyas.grading import grade
from eyas.records import Example
from eyas.storage.grading_process import PROCESS, GradingProcess
from eyas.storage.verdicts import judge

pytest.importorskip("math_verify")
library = pytest.importorskip("reasoning_gym")


def maths(answer: str) -> Example:
    return Example(key="k", prompt=(("user", "q"),), answer=answer, grader="maths")


def reasoning_gym(task: str) -> tuple[dict[str, Any], Example]:
    entry = library.create_dataset(task, seed=3, size=1)[0]
    question, answer = entry["question"], entry["answer"]
    metadata = json.dumps(entry)
    return entry, Example(
        key="k", prompt=(("user", question),), answer=answer, grader="reasoning_gym", metadata=metadata
    )


@pytest.fixture(scope="module")
def process() -> Iterator[GradingProcess]:
    process = GradingProcess(limit_s=1)
    yield process
    process.close()


@pytest.mark.parametrize("endless", [r"$10^{10^{10}}$", "(" * 3000])
def test_an_answer_that_takes_for_ever_is_wrong_and_the_next_is_graded(process: GradingProcess, endless: str) -> None:
    assert process.grade(endless, maths("3")) == 0.0
    assert process.grade(r"$\boxed{\frac{1}{2}}$", maths("0.5")) == 1.0
    assert process.grade("$2$", maths("0.5")) == 0.0


ATTACKS = (
    "open({path!r}, 'w').close()",
    "__import__('os').system('touch {path}')",
    "__import__('shutil').copy('/dev/null', {path!r})",
)


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_a_verifier_evaluates_writes_nothing(process: GradingProcess, tmp_path: Path, attack: str) -> None:
    entry, example = reasoning_gym("spiral_matrix")
    path = tmp_path / "new"
    text = f"[{attack.format(path=str(path))}]"
    assert process.grade(text, example) == 0.0
    assert not path.exists()
    assert process.grade(entry["answer"], example) == 1.0
    assert grade(text, example) == 0.0
    assert path.exists(), "the attack itself does not work"


def test_an_answer_that_ends_the_process_is_wrong_and_the_next_is_graded(process: GradingProcess) -> None:
    entry, example = reasoning_gym("spiral_matrix")
    assert process.grade("[__import__('os')._exit(0)]", example) == 0.0
    assert process.grade(entry["answer"], example) == 1.0


def test_a_process_that_was_killed_between_two_answers_is_started_anew(process: GradingProcess) -> None:
    assert process.grade("$2$", maths("2")) == 1.0
    assert process._process is not None
    process._process.kill()
    process._process.wait()
    assert process.grade("$2$", maths("2")) == 1.0


def test_threads_share_the_process_and_verdicts_keep_their_order() -> None:
    found: dict[int, list[float | None]] = {}

    def ask(offset: int) -> None:
        numbers = range(offset, offset + 20)
        answers = [rf"$\boxed{{\frac{{{number * 2}}}{{2}}}}$" for number in numbers]
        found[offset] = judge(answers, [maths(str(number if number % 2 else number + 1)) for number in numbers])

    threads = [threading.Thread(target=ask, args=(offset,)) for offset in (0, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {offset: [float(number % 2) for number in range(20)] for offset in (0, 100, 200)}


def test_many_answers_start_one_process_and_are_graded_quickly() -> None:
    assert judge(["$2$"], [maths("2")]) == [1.0]
    process, started = PROCESS._process, time.monotonic()
    assert judge([f"${number}$" for number in range(200)], [maths("7")] * 200).count(1.0) == 1
    assert PROCESS._process is process
    assert time.monotonic() - started < 60


def test_an_error_of_the_grader_reaches_the_caller(process: GradingProcess) -> None:
    broken = Example(key="k", prompt=(("user", "q"),), answer="1", grader="reasoning_gym", metadata="{}")
    with pytest.raises(GradingError, match="needs the task's own entry"):
        process.grade("1", broken)
    with pytest.raises(GradingError, match="'guess' does not exist"):
        process.grade("1", Example(key="k", prompt=(("user", "q"),), answer="1", grader="guess"))


def test_a_process_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(GradingError, match="did not start"):
        GradingProcess().grade("1", maths("1"))


def test_the_limit_of_one_answer_does_not_count_the_import_for_the_next() -> None:
    fresh = GradingProcess(limit_s=1)
    entry, example = reasoning_gym("chain_sum")
    for _ in range(2):
        assert fresh.grade("$2$", maths("2")) == 1.0
    assert fresh.grade(entry["answer"], example) == 1.0
    fresh.close()
