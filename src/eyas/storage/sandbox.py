"""Untrusted Python in a process of its own: no network, no other processes, no files but a scratch directory.

What this protects from and what it does not is in docs/sandbox.md. Linux only, no privileges needed.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import math
import os
import secrets
import selectors
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from io import FileIO
from pathlib import Path
from typing import Literal

from eyas.errors import SandboxError
from eyas.storage.seccomp import filter_program

Status = Literal["passed", "failed", "timeout", "memory", "killed"]
Means = Literal["landlock", "namespaces", "none"]
UNSAFE_CODE = "EYAS_UNSAFE_CODE"
"""Allows code to run where nothing isolates it; a machine's property, so not a recipe's."""
_START_S = 60.0
"""An interpreter starts in 0.05 s; a machine that swaps takes longer. The program's own time starts afterwards."""
_POLL_S = 0.05
_CHUNK_BYTES = 1 << 16
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONUTF8": "1", "PYTHONHASHSEED": "0"}
"""Nothing of ours, and the same set order every time."""
_SYSTEM_PATHS = (
    *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo"),
    *("/etc/ld.so.cache", "/etc/localtime", "/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"),
)


@dataclass(frozen=True)
class Limits:
    """What one program may use; exceeding any of them ends or fails it.

    The defaults are several times what HumanEval's reference solutions need (0.3 s, 40 MB).
    """

    time_s: float = 10.0
    """Wall-clock and, rounded up, processor seconds."""
    memory_bytes: int = 512 << 20
    """Address space, interpreter included."""
    file_bytes: int = 16 << 20
    """Largest file it may write, and what its scratch directory may hold."""
    files: int = 256
    """Files in its scratch directory; it cannot make directories."""
    open_files: int = 32
    output_bytes: int = 64 << 10
    """Kept of standard output and of standard error each; the rest is read and thrown away."""


@dataclass(frozen=True)
class Outcome:
    """How a program ended. `passed` means that program and tests ran to their end, not that nothing was printed."""

    status: Status
    stdout: str
    stderr: str


def run_code(program: str, *, tests: str = "", limits: Limits | None = None) -> Outcome:
    """Run `program`, then `tests` in the same module, in a sandbox; passed if both reach their end.

    `failed`: an exception, an exit or a syntax error; `memory`: MemoryError; `timeout`: time_s is over; `killed`: a
    signal, or too much in the scratch directory.

    Raises: SandboxError, where nothing isolates and that is not allowed; see `available_means`.
    """
    return run_with(available_means(), program, tests=tests, limits=limits or Limits())


@functools.cache
def available_means() -> Means:
    """The first means that works here: Landlock, then user and mount namespaces; found out by trying.

    `none`, process group, time and memory limits only, if neither works and EYAS_UNSAFE_CODE is 1.

    Raises: SandboxError, if neither does and that is not set.
    """
    reasons = []
    for means in ("landlock", "namespaces"):
        try:
            run_with(means, "", limits=Limits())
        except SandboxError as error:
            reasons.append(str(error))
        else:
            return means
    if os.environ.get(UNSAFE_CODE) == "1":
        return "none"
    raise SandboxError(
        "code cannot be run safely on this machine: it needs Linux 5.13 or later with Landlock, or user namespaces, "
        f"and found neither ({'; '.join(reasons)}). Allow one of them (containers: the seccomp profile), or set "
        f"{UNSAFE_CODE}=1 to run code that a model wrote without isolation."
    )


def run_with(means: Means, program: str, *, tests: str = "", limits: Limits) -> Outcome:
    """Like `run_code`, by a means of the caller's choice.

    Raises: SandboxError, if the means does not work here.
    """
    with tempfile.TemporaryDirectory(prefix="eyas-sandbox-", ignore_cleanup_errors=True) as scratch:
        work, root = Path(scratch, "work"), Path(scratch, "root")
        work.mkdir()
        root.mkdir()
        token = secrets.token_hex(16)
        request = {
            "means": means,
            "filter": "" if means == "none" else base64.b64encode(filter_program()).decode(),
            "readable": _readable(),
            "root": os.fspath(root.resolve()),
            "limits": {**asdict(limits), "cpu_s": math.ceil(limits.time_s)},
            "token": token,
            "program": program,
            "tests": tests,
        }
        trace = _run_interpreter(request, work, limits)
    report = trace.output["report"].decode(errors="replace").splitlines()
    if report[:1] != ["ready"]:
        why = report[0] if report else trace.output["stderr"].decode(errors="replace")[-300:] or "it did not start"
        raise SandboxError(f"the sandbox could not be set up with {means}: {why}")
    verdicts: dict[str, Status] = {f"{token} {status}": status for status in ("passed", "failed", "memory")}
    status = trace.stopped or next((verdicts[line] for line in report[1:] if line in verdicts), None)
    if status is None:
        timed_out = trace.return_code == -signal.SIGXCPU
        status = "timeout" if timed_out else "killed" if trace.return_code < 0 else "failed"
    texts = [trace.output[name].decode(errors="replace") for name in ("stdout", "stderr")]
    return Outcome(status, *texts)


def _readable() -> list[str]:
    """What an interpreter needs to read, parents first; not the environment's packages and nobody's home."""
    libraries = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), f"{sys.base_prefix}/lib"]
    paths = {os.path.realpath(path) for path in libraries} | set(_SYSTEM_PATHS)
    return sorted(path for path in paths if os.path.exists(path))


@dataclass
class _Trace:
    """What was seen of one interpreter from outside."""

    output: dict[str, bytearray] = field(
        default_factory=lambda: {name: bytearray() for name in ("stdout", "stderr", "report")}
    )
    stopped: Status | None = None
    return_code: int = 0


def _run_interpreter(request: Mapping[str, object], work: Path, limits: Limits) -> _Trace:
    """Start an interpreter in a session of its own, watch it, and leave nothing of its process group alive."""
    trace = _Trace()
    with contextlib.ExitStack() as stack:
        pipes = {name: os.pipe() for name in trace.output}
        readers = {name: stack.enter_context(open(ends[0], "rb", buffering=0)) for name, ends in pipes.items()}
        writers = stack.enter_context(contextlib.ExitStack())
        for _, end in pipes.values():
            writers.callback(os.close, end)
        sent = work.parent / "request.json"
        sent.write_text(json.dumps({**request, "descriptor": pipes["report"][1]}))
        process = subprocess.Popen(
            [sys.executable, "-P", "-s", "-S", "-B", str(Path(__file__).with_name("sandbox_child.py"))],
            stdin=stack.enter_context(sent.open("rb")),
            stdout=pipes["stdout"][1],
            stderr=pipes["stderr"][1],
            pass_fds=(pipes["report"][1],),
            cwd=work,
            env=_ENVIRONMENT | {"HOME": os.fspath(work), "TMPDIR": os.fspath(work)},
            start_new_session=True,
        )
        writers.close()
        try:
            _watch(readers, trace, work, limits)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            trace.return_code = process.wait()
    return trace


def _watch(readers: dict[str, FileIO], trace: _Trace, work: Path, limits: Limits) -> None:
    """Read until every pipe is closed, the time is over or the scratch directory too full."""
    deadline, ready = time.monotonic() + _START_S, False
    with selectors.DefaultSelector() as selector:
        for name, reader in readers.items():
            selector.register(reader, selectors.EVENT_READ, name)
        next_look = 0.0
        while selector.get_map():
            for key, _ in selector.select(timeout=_POLL_S):
                chunk = os.read(key.fd, _CHUNK_BYTES)
                kept = trace.output[key.data]
                kept += chunk[: max(0, limits.output_bytes - len(kept))]
                if not chunk:
                    selector.unregister(key.fileobj)
            now = time.monotonic()
            if not ready and trace.output["report"].startswith(b"ready\n"):
                ready, deadline = True, now + limits.time_s
            if now > deadline:
                trace.stopped = "timeout"
                return
            if now > next_look:
                next_look = now + _POLL_S
                if _overfull(work, limits):
                    trace.stopped = "killed"
                    return


def _overfull(work: Path, limits: Limits) -> bool:
    """Whether the scratch directory holds more than it may; looks no further than it must."""
    size_bytes = count = 0
    with contextlib.suppress(FileNotFoundError), os.scandir(work) as entries:
        for entry in entries:
            count += 1
            size_bytes += entry.stat(follow_symlinks=False).st_blocks * 512
            if count > limits.files or size_bytes > limits.file_bytes:
                return True
    return False
