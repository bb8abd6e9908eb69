"""Measures one exported file in a process of its own, so that load time and memory are the file's: no torch in it.

Started by `eyas.runtimes.bench` as `python -m eyas.runtimes.bench_child`. The request is JSON on standard input, the
answer JSON in the last line of standard output; an error is `Name: message` on standard error and exit code 1.
"""

from __future__ import annotations

import ctypes
import json
import resource
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eyas.errors import EyasError
from eyas.latency import Generation, Round
from eyas.runtimes.ascend import load_ascend
from eyas.runtimes.energy import energy_meter
from eyas.runtimes.opening import open_runtime
from eyas.runtimes.runtime import Runtime

PR_SET_PDEATHSIG = 1
"""linux/prctl.h"""


def main() -> None:
    """Answer the request on standard input."""
    request = json.load(sys.stdin)
    if sys.platform == "linux":  # or the next command would measure beside what a killed one left behind
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        made = measure(request)
    except (EyasError, MemoryError) as error:
        sys.stderr.write(f"{type(error).__name__}: {error or 'memory ran out'}\n")
        raise SystemExit(1) from None
    sys.stdout.write("\n" + json.dumps(made) + "\n")


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """`runtime`, `version`, `context_length`, and `round`, the fields of a `latency.Round`.

    The request: path, soc, threads, context_length, prompt_ids, completion_tokens, warmup, repeats.
    """
    start_rss_bytes = peak_rss_bytes()
    path, threads, soc = Path(request["path"]), request["threads"], request["soc"]
    runtime = (
        load_ascend(path, soc=soc)
        if soc
        else open_runtime(path, threads=threads, context_length=request["context_length"])
    )
    with runtime:
        for _ in range(request["warmup"]):
            _generation(runtime, request)
        with energy_meter(device=soc is not None) as meter:
            generations = tuple(_generation(runtime, request) for _ in range(request["repeats"]))
        found = Round(
            load_s=runtime.timings().load_s,
            peak_rss_bytes=peak_rss_bytes(),
            start_rss_bytes=start_rss_bytes,
            energy_j=meter.joules,
            generations=generations,
        )
        return {
            "runtime": runtime.name,
            "version": runtime.version,
            "context_length": runtime.context_length,
            "round": asdict(found),
        }


def _generation(runtime: Runtime, request: dict[str, Any]) -> Generation:
    session = runtime.session
    before_s = session.graph_s
    stream = runtime.generate(request["prompt_ids"], max_tokens=request["completion_tokens"], stop_ids=())
    next(stream)
    first_s = session.graph_s
    for _ in stream:
        pass
    timings = runtime.timings()
    return Generation(
        prefill_s=timings.prefill_s,
        decode_s=timings.decode_s,
        library_prefill_s=first_s - before_s,
        library_decode_s=session.graph_s - first_s,
    )


def peak_rss_bytes() -> int:
    """The most memory that this process has had resident so far.

    Linux's VmHWM: `ru_maxrss` there starts at the parent's size at the fork (proc(5), getrusage(2)), and is used only
    where /proc is missing; macOS counts it in bytes.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main()
