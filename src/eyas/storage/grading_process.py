"""A process of its own for graders that may take for ever: one answer at a time, ended at its limit, started anew.

`maths` and `reasoning_gym` evaluate what a model wrote: 10^{10^{10}} keeps one C call busy for years, and some of
reasoning-gym's verifiers call `eval`. So where Landlock works the process can write no file, and make no other
process and no connection (docs/sandbox.md says what that leaves).
"""

from __future__ import annotations

import atexit
import contextlib
import math
import multiprocessing
import os
import resource
import subprocess
import sys
import threading
from multiprocessing.connection import Connection

from eyas.errors import EyasError, GradingError, SandboxError
from eyas.grading import grade, load
from eyas.records import Example
from eyas.storage.sandbox_child import restrict_system_calls, restrict_with_landlock
from eyas.storage.seccomp import filter_program

LIMIT_S = 5
"""Processor seconds for one answer, so that a busy machine gives the same verdict; math-verify's own default."""
_WALL_PER_LIMIT = 60
"""What sleeps uses no processor: this many times the limit on the clock ends it too."""
_START_S = 120.0
"""Importing the libraries takes a second or two; a machine that swaps takes longer."""
_MEMORY_BYTES = 4 << 30
"""Address space: several times what the libraries need, and less than a machine that grades has."""


class GradingProcess:
    """Grades one answer after another in another process; may be asked from any thread."""

    def __init__(self, *, limit_s: int = LIMIT_S) -> None:
        self.limit_s = limit_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def grade(self, text: str, example: Example) -> float | None:
        """`eyas.grading.grade`, and 0.0 for an answer that takes longer than the limit or ends the process.

        Raises: GradingError, with what `grade` raised, or if the process cannot be started.
        """
        with self._lock:
            connection = self._started()
            try:
                connection.send((text, example))
                answer = connection.recv() if connection.poll(self.limit_s * _WALL_PER_LIMIT) else self._end()
            except (EOFError, OSError):  # out of time, out of memory, or a crash
                answer = self._end()
        if isinstance(answer, str):
            raise GradingError(answer)
        verdict: float | None = answer
        return verdict

    def close(self) -> None:
        """End the process, if there is one."""
        with self._lock:
            self._end()

    def _started(self) -> Connection:
        if self._connection is not None and self._process is not None and self._process.poll() is None:
            return self._connection
        self._end()
        ours, theirs = multiprocessing.Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "eyas.storage.grading_process", str(theirs.fileno()), str(self.limit_s)],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=os.environ | {"PYTHONHASHSEED": "0"},  # sympy's order of terms follows the order of sets
                start_new_session=True,  # an interrupt from the terminal is for us
            )
        self._connection = ours
        try:
            if ours.poll(_START_S) and ours.recv() == "ready":
                return ours
        except (EOFError, OSError):
            pass
        self._end()
        raise GradingError("the process that grades did not start; what it printed above says why.")

    def _end(self) -> float:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None
        return 0.0


def serve(connection: Connection, *, limit_s: int) -> None:
    """Grade what comes until the other end closes; the kernel ends this process at an answer's limit."""
    _, hard_s = resource.getrlimit(resource.RLIMIT_CPU)
    with contextlib.suppress(ValueError):  # a lower limit is in force already
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    with contextlib.suppress(OSError, SandboxError):  # where nothing confines, grade all the same
        restrict_with_landlock(["/"], None)
        restrict_system_calls(filter_program())
    connection.send("ready")
    while True:
        try:
            text, example = connection.recv()
        except (EOFError, OSError):
            return
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (hard_s, hard_s))  # the last answer's is not for importing
            load(example.grader)
            used = resource.getrusage(resource.RUSAGE_SELF)
            resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used.ru_utime + used.ru_stime) + limit_s, hard_s))
            answer: float | str | None = grade(text, example)
        except EyasError as error:
            answer = str(error)
        except (MemoryError, RecursionError, OverflowError):
            answer = 0.0
        connection.send(answer)


PROCESS = GradingProcess()
"""Started when it is first asked, ended with this process."""
atexit.register(PROCESS.close)

if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), limit_s=int(sys.argv[2]))
