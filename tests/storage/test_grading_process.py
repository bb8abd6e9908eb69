"""Graders that may take for ever: wrong at the limit, the rest goes on, from any thread, and confined."""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eyas.errors import GradingError
from eyas.grading import grade
from eyas.records import Example
from eyas.storage.grading_process import _ONE_THREAD, PROCESS, GradingProcess
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
    assert process._running is not None
    process._running.process.kill()
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
    running, started = PROCESS._running, time.monotonic()
    assert judge([f"${number}$" for number in range(200)], [maths("7")] * 200).count(1.0) == 1
    assert PROCESS._running is running
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
    monkeypatch.setattr("sys.executable", "/no/such/python")
    with pytest.raises(GradingError, match=r"cannot be started: .*/no/such/python"):
        GradingProcess().grade("1", maths("1"))


def test_a_process_that_ends_while_it_imports_the_grader_is_an_error_and_no_verdict(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "math_verify.py").write_text("import os\nos._exit(3)")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(GradingError, match="ended before it looked at an answer with 'maths'"):
        GradingProcess(limit_s=1).grade("$1$", maths("1"))


LIBRARY = """
LatexExtractionConfig = ExprExtractionConfig = lambda **_: None
def parse(text, *_, **__): return [text]
def verify(gold, answer, **_): {}
"""


@pytest.mark.parametrize(
    ("library", "message"),
    [
        ("raise RuntimeError('no ABI')", "RuntimeError: no ABI"),
        ("import no_such_part", "math-verify"),
        (LIBRARY.format("pass").replace("verify", "check"), "AttributeError: .*'verify'"),
        (LIBRARY.format("from sympy import no_such_name"), "ImportError: .*no_such_name"),
        (LIBRARY.format("return no_such_name"), "NameError: .*no_such_name"),
    ],
)
def test_a_broken_library_is_an_error_that_names_the_grader_and_no_wrong_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, library: str, message: str
) -> None:
    (tmp_path / "math_verify.py").write_text(library)
    monkeypatch.syspath_prepend(tmp_path)
    fresh = GradingProcess(limit_s=1)
    for _ in range(2):
        with pytest.raises(GradingError, match=rf"grader 'maths'.*{message}"):
            fresh.grade("$1$", maths("1"))
    fresh.close()


def test_what_an_answer_makes_a_library_raise_is_wrong_and_the_process_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "math_verify.py").write_text(LIBRARY.format("return eval(answer[0])"))
    monkeypatch.syspath_prepend(tmp_path)
    fresh = GradingProcess(limit_s=1)
    assert fresh.grade("1", maths("1")) == 1.0
    running = fresh._running
    for text in (
        "1 / 0",
        "'",
        "{}[0]",
        "no_such_name",
        "__import__('no_such_module')",
        "''.no_such_name",
        "open('/no')",
    ):
        assert fresh.grade(text, maths("1")) == 0.0
    assert fresh.grade("1", maths("1")) == 1.0
    assert fresh._running is running
    fresh.close()


def test_a_library_that_makes_threads_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "2")
    fresh = GradingProcess(limit_s=1)
    entry, example = reasoning_gym("spiral_matrix")
    assert fresh.grade(entry["answer"], example) == 1.0
    fresh.close()


def test_modules_of_the_working_directory_are_not_imported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "resource.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    fresh = GradingProcess(limit_s=1)
    assert fresh.grade("$1$", maths("1")) == 1.0
    fresh.close()


def test_an_interrupted_question_is_not_answered_to_the_next(process: GradingProcess) -> None:
    assert process.grade("$2$", maths("2")) == 1.0
    interrupt = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        process.grade(r"$10^{10^{10}}$", maths("3"))
    assert process.grade("$2$", maths("2")) == 1.0


def test_what_an_answer_says_to_the_asking_process_is_not_unpickled(process: GradingProcess, tmp_path: Path) -> None:
    """A verifier's `eval` reaches the descriptor that verdicts come through: nothing sent there may run here."""
    path = tmp_path / "new"

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (path,)

    pickled = pickle.dumps(Payload())
    entry, example = reasoning_gym("spiral_matrix")
    sent = struct.pack("!i", len(pickled)) + pickled + b"\n1.0\n"
    text = f"[__import__('os').write(int(__import__('sys').argv[1]), {sent!r})]"
    assert process.grade(text, example) == 0.0
    assert process.grade("1", example) == 0.0
    assert process.grade(entry["answer"], example) == 1.0
    assert not path.exists()
    pickle.loads(pickled)
    assert path.exists(), "the payload itself does not work"


def test_what_an_answer_prints_is_no_output_of_ours(process: GradingProcess, capfd: pytest.CaptureFixture[str]) -> None:
    _, example = reasoning_gym("spiral_matrix")
    assert process.grade("[print('printed')]", example) == 0.0
    assert "printed" not in capfd.readouterr().out


def test_what_sleeps_ends_though_the_asking_process_is_gone() -> None:
    ours, theirs = socket.socketpair()
    code = "import eyas.storage.grading_process as g; g._WALL_PER_LIMIT = 1; g.serve({}, limit_s=1)"
    with theirs:
        child = subprocess.Popen(
            [sys.executable, "-c", code.format(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            env=os.environ | _ONE_THREAD,
        )
    _, example = reasoning_gym("spiral_matrix")
    with ours:
        assert ours.recv(6) == b"ready\n"
        ours.sendall(pickle.dumps(("[__import__('time').sleep(60)]", example)))
        assert ours.recv(6) == b"begun\n"
    assert child.wait(timeout=20) == -signal.SIGALRM


def test_it_can_be_imported_where_unix_modules_are_missing() -> None:
    code = "import sys; sys.modules['resource'] = None; import eyas.storage.grading_process"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_limit_of_one_answer_does_not_count_the_import_for_the_next() -> None:
    fresh = GradingProcess(limit_s=1)
    entry, example = reasoning_gym("chain_sum")
    for _ in range(2):
        assert fresh.grade("$2$", maths("2")) == 1.0
    assert fresh.grade(entry["answer"], example) == 1.0
    fresh.close()
