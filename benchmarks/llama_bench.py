"""Our measuring of a GGUF file beside llama.cpp's `llama-bench`, and what the host loop adds to a library's time.

    python benchmarks/llama_bench.py --llama-bench BUILD/bin/llama-bench model.gguf --threads 1
    python benchmarks/llama_bench.py --llama-bench BUILD/bin/llama-bench model.gguf onnx-directory

Alternating, each a process of its own, on one file with the same prompt length, steps, depth and threads: `pp` of P
tokens, `tg` of N - 1 steps at depth P; of each round the best repeat on both sides, for what disturbs a measurement
only adds to it. Directories of ONNX graphs have no such peer: of them, and of GGUF files, the share of E2E that is the
library's own is told. The target is 10 % either way: 0.9.

llama-bench is not installed by us. It is built out of llama.cpp's source, which the sdist of llama-cpp-python holds:

    pip download --no-deps --no-binary llama-cpp-python llama-cpp-python && tar xf llama_cpp_python-*.tar.gz
    cmake -G Ninja -S llama_cpp_python-*/vendor/llama.cpp -B BUILD -DBUILD_SHARED_LIBS=OFF -DLLAMA_CURL=OFF
    ninja -C BUILD llama-bench llama-quantize

That build uses every instruction of the machine, xllamacpp's wheels only AVX2, FMA, F16C and BMI2: for the like of
them, add -DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON. With -DBUILD_SHARED_LIBS=ON and
the target `llama` it makes the library too that EYAS_LLAMA_LIBRARY may name.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median

import measure

from eyas.latency import decode_tok_per_s, prefill_tok_per_s
from eyas.runtimes.bench import BenchSettings, bench_rounds
from eyas.runtimes.measurement import Measurement
from eyas.storage.processor import core_count

TARGET = 0.9


def main() -> None:
    """Measure in turn, print rows."""
    parser = measure.options(__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="GGUF files, directories of ONNX graphs")
    parser.add_argument("--llama-bench", type=Path, required=True, help="the program")
    parser.add_argument("--threads", type=int, default=core_count())
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--completion-tokens", type=int, default=129, help="128 steps after the first token")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5, help="of each round; llama-bench's default")
    options = parser.parse_args()
    settings = BenchSettings(
        prompt_tokens=min(options.prompt_tokens, 64) if options.short else options.prompt_tokens,
        completion_tokens=min(options.completion_tokens, 33) if options.short else options.completion_tokens,
        rounds=options.rounds,
        repeats=options.repeats,
        threads=options.threads,
    )
    report = measure.Report("llama_bench", short=options.short)
    for path in options.files:
        rivals: list[dict[str, list[float]]] = []
        for (ours,) in bench_rounds([path], settings=settings):
            if ours.file.format == "GGUF":
                rivals.append(llama_bench(options.llama_bench, ours, report))
        for row in (*peer_rows(ours, rivals), share_row(ours)):
            report.add(row)
    report.finish()


def llama_bench(program: Path, ours: Measurement, report: measure.Report) -> dict[str, list[float]]:
    """Tokens a second of every repeat, for `pp` and `tg`, of the work that `ours` is of."""
    prompt, steps = ours.prompt_tokens, ours.completion_tokens - 1
    works = {"pp": ["-p", str(prompt), "-n", "0"], "tg": ["-p", "0", "-n", str(steps), "-d", str(prompt)]}
    common = ["-m", str(ours.file.path), "-t", str(ours.threads), "-r", str(ours.repeats), "-ngl", "0", "-o", "json"]
    found = {}
    for name, work in works.items():
        done = subprocess.run([program, *common, *work], capture_output=True, text=True, check=True)
        (made,) = json.loads(done.stdout)
        found[name] = [float(rate) for rate in made["samples_ts"]]
        report.facts |= {"llama_bench": f"build {made['build_number']} ({made['build_commit']}), {made['cpu_info']}"}
    return found


def peer_rows(ours: Measurement, rivals: Sequence[dict[str, list[float]]]) -> list[measure.Row]:
    """`pp` and `tg` beside llama-bench's, round by round; none without rivals."""
    if not rivals:
        return []
    work = {"pp": f"pp{ours.prompt_tokens}", "tg": f"tg{ours.completion_tokens - 1} @ d{ours.prompt_tokens}"}
    rates_of = {"pp": partial(prefill_tok_per_s, prompt_tokens=ours.prompt_tokens), "tg": decode_tok_per_s}
    rows = []
    for name, rate_of in rates_of.items():
        rates = [max(map(rate_of, made.generations)) for made in ours.rounds]
        theirs = [max(rival[name]) for rival in rivals]
        rows.append(
            measure.Row(
                what=f"{ours.file.name}, {work[name]}, {ours.threads} threads",
                peer="llama-bench",
                ours=f"{median(rates):,.1f} tok/s",
                theirs=f"{median(theirs):,.1f} tok/s",
                ratios=tuple(own / rival for own, rival in zip(rates, theirs, strict=True)),
                target=TARGET,
            )
        )
    return rows


def share_row(ours: Measurement) -> measure.Row:
    """The library's own time by E2E."""
    inside = tuple(1 - share for share in ours.host_share.rounds)
    return measure.Row(
        what=f"{ours.file.name}, whole answer, {ours.threads} threads",
        peer=f"{ours.runtime}'s own time",
        ours=f"{1000 * ours.e2e_s.value:,.1f} ms",
        theirs=f"{1000 * ours.e2e_s.value * median(inside):,.1f} ms",
        ratios=inside,
        target=TARGET,
    )


if __name__ == "__main__":
    main()
