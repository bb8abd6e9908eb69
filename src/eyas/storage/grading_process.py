"""A process of its own for graders that may take for ever: one answer at a time, ended at its limit, started anew.

`maths` and `reasoning_gym` evaluate what a model wrote: 10^{10^{10}} keeps one C call busy for years, and some of
reasoning-gym's verifiers call `eval`. So where Linux can confine it the process can write no file, and make no other
process and no connection (docs/sandbox.md says what that leaves), and nothing that it says is unpickled here.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import traceback
from dataclasses import dataclass
from io import BufferedRWPair

from eyas.errors import EyasError, GradingError, SandboxError
from eyas.grading import grade, load
from eyas.records import Example
from eyas.storage.seccomp import filter_program

LIMIT_S = 5
"""Processor seconds for one answer, so that a busy machine gives the same verdict; math-verify's own default."""
_WALL_PER_LIMIT = 60
"""What sleeps uses no processor: this many times the limit on the clock ends it too."""
_MEMORY_BYTES = 4 << 30
"""Address space: several times what the libraries need, and less than a machine that grades has."""
_READY, _BEGUN, _NONE, _ERROR = b"ready", b"begun", b"none", b"error "
"""What the process says, a line each; any other line is a verdict."""
_ERROR_CHARACTERS, _LINE_BYTES = 4000, 1 << 16
_ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""A confined process can make no threads, and OpenBLAS ends a process in which it cannot."""


@dataclass(frozen=True)
class _Running:
    process: subprocess.Popen[bytes]
    socket: socket.socket
    pipe: BufferedRWPair


class GradingProcess:
    """Grades one answer after another in another process; may be asked from any thread."""

    def __init__(self, *, limit_s: int = LIMIT_S) -> None:
        self.limit_s = limit_s
        self._lock = threading.Lock()
        self._running: _Running | None = None

    def grade(self, text: str, example: Example) -> float | None:
        """`eyas.grading.grade`, and 0.0 for an answer that takes longer than the limit or ends the process.

        Raises: GradingError, with what `grade` raised, or if the process cannot be started or the grader's library
        cannot be imported or misses a name.
        """
        with self._lock, contextlib.ExitStack() as unfinished:
            unfinished.callback(self._end)  # after an interrupt, what was asked would be the answer to the next
            begun = self._asked(text, example) or self._asked(text, example)  # it may have died while it waited
            if not begun:
                raise GradingError(
                    f"the process that grades ended before it looked at an answer with {example.grader!r}; what it "
                    "printed above says why."
                )
            said = self._said() if begun == _BEGUN else begun
            if said:
                unfinished.pop_all()
        if said.startswith(_ERROR):
            raise GradingError(said.removeprefix(_ERROR).decode("unicode-escape", errors="replace"))
        return None if said == _NONE else _number(said)

    def close(self) -> None:
        """End the process, if there is one."""
        with self._lock:
            self._end()

    def _asked(self, text: str, example: Example) -> bytes:
        """Ask; `begun` or an error, empty if the process ended before it looked at the answer."""
        pipe = self._started().pipe
        try:
            pickle.dump((text, example), pipe)
            pipe.flush()
        except OSError:
            self._end()
            return b""
        said = self._said()
        if said == _BEGUN or said.startswith(_ERROR):
            return said
        self._end()  # something that an earlier answer left to be read
        return b""

    def _said(self) -> bytes:
        """The next line; empty if the process ended or is out of time."""
        try:
            line = self._running.pipe.readline(_LINE_BYTES) if self._running is not None else b""
        except OSError:  # the wall-clock limit, or a connection that was reset
            line = b""
        if line.endswith(b"\n"):
            return line[:-1]
        self._end()
        return b""

    def _started(self) -> _Running:
        if self._running is not None and self._running.process.poll() is None:
            return self._running
        self._end()
        ours, theirs = socket.socketpair()
        ours.settimeout(self.limit_s * _WALL_PER_LIMIT)
        with theirs:
            try:
                process = _start(theirs.fileno(), limit_s=self.limit_s)
            except (OSError, ValueError) as error:
                ours.close()
                raise GradingError(f"the process that grades cannot be started: {error}.") from error
        self._running = _Running(process, ours, ours.makefile("rwb"))
        if self._said() != _READY:
            raise GradingError("the process that grades did not start; what it printed above says why.")
        return self._running

    def _end(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.process.kill()
            running.process.wait()
            running.socket.close()
            with contextlib.suppress(OSError):  # a question half sent
                running.pipe.close()


def _start(descriptor: int, *, limit_s: int) -> subprocess.Popen[bytes]:
    environment = {
        "PYTHONHASHSEED": "0",  # sympy's order of terms follows the order of sets
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),  # the same modules as here
    }
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "eyas.storage.grading_process", str(descriptor), str(limit_s)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # what an evaluated answer prints is no output of ours
        pass_fds=(descriptor,),
        env=os.environ | _ONE_THREAD | environment,
        start_new_session=True,  # an interrupt from the terminal is for us
    )


def _number(said: bytes) -> float:
    """The verdict; 0.0 for what an answer that took the process over may say."""
    try:
        found = float(said)
    except ValueError:
        return 0.0
    return found if 0 <= found <= 1 else 0.0


def serve(descriptor: int, *, limit_s: int) -> None:
    """Grade what comes until the other end closes; the kernel ends this process at an answer's limit."""
    import resource  # Unix alone has it

    _, hard_s = resource.getrlimit(resource.RLIMIT_CPU)
    with contextlib.suppress(ValueError):  # a lower limit is in force already
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    if sys.platform == "linux":
        _confine()
    with open(descriptor, "rb") as questions, open(descriptor, "wb", buffering=0, closefd=False) as answers:
        answers.write(_READY + b"\n")
        while True:
            try:
                text, example = pickle.load(questions)
            except (EOFError, OSError):
                return
            if (said := _load_error(example.grader)) is None:
                answers.write(_BEGUN + b"\n")
                used = resource.getrusage(resource.RUSAGE_SELF)
                end_s = math.ceil(used.ru_utime + used.ru_stime) + limit_s
                resource.setrlimit(resource.RLIMIT_CPU, (end_s if hard_s < 0 else min(end_s, hard_s), hard_s))
                signal.alarm(limit_s * _WALL_PER_LIMIT)  # nobody else ends what sleeps once the asking process is gone
                said = _verdict(text, example)
            signal.alarm(0)
            resource.setrlimit(resource.RLIMIT_CPU, (hard_s, hard_s))
            answers.write(said + b"\n")


def _load_error(grader: str) -> bytes | None:
    try:
        load(grader)
    except EyasError as error:
        return _error(str(error))
    except Exception as error:  # noqa: BLE001 (whatever a broken library raises; no answer has been seen yet)
        return _broken(grader, error)
    return None


def _verdict(text: str, example: Example) -> bytes:
    """What is said of an answer: wrong, if a library raises what an answer can make it raise."""
    try:
        found = grade(text, example)
    except EyasError as error:
        return _error(str(error))
    except (ImportError, AttributeError, NameError) as error:
        return b"0.0" if _is_of_an_answer(error) else _broken(example.grader, error)
    except Exception:  # noqa: BLE001 (verifiers parse without a guard)
        return b"0.0"
    return _NONE if found is None else str(found).encode()


def _is_of_an_answer(error: Exception) -> bool:
    """Whether it was raised in a text that a verifier evaluates, and not by the library's own code."""
    return any(frame.f_code.co_filename == "<string>" for frame, _ in traceback.walk_tb(error.__traceback__))


def _broken(grader: str, error: Exception) -> bytes:
    return _error(
        f"the library of the grader {grader!r} does not work here: {type(error).__name__}: {error}. Install the "
        "versions that constraints.txt of eyas names."
    )


def _error(message: str) -> bytes:
    return _ERROR + message[:_ERROR_CHARACTERS].encode("unicode-escape")


def _confine() -> None:
    """As far as this kernel can: the rest of it where a part does not work."""
    from eyas.storage.sandbox_child import restrict_system_calls, restrict_with_landlock

    with contextlib.suppress(OSError):
        restrict_with_landlock(["/"], None)
    with contextlib.suppress(OSError, SandboxError):
        restrict_system_calls(filter_program())


PROCESS = GradingProcess()
"""Started when it is first asked, ended with this process."""
atexit.register(PROCESS.close)

if __name__ == "__main__":
    serve(int(sys.argv[1]), limit_s=int(sys.argv[2]))
