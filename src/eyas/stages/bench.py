"""Bench: what exported files cost on this machine, measured in turns."""

from __future__ import annotations

from typing import Any

from eyas.recipe import BenchStage
from eyas.runtimes.bench import BenchSettings, bench_files
from eyas.runtimes.measurement import FIGURES, Measurement
from eyas.storage.artifacts import write_json
from eyas.storage.context import StageContext


def run(stage: BenchStage, context: StageContext) -> dict[str, Any]:
    """Write `measurements.json`, with every gap between tokens; the figures, round by round, go into the manifest.

    Raises: BenchError, if a file cannot be measured.
    """
    exports = {name: context.inputs[f"export:{name}"] for name in stage.files}
    paths = [export.path / export.facts["file"] for export in exports.values()]
    done = 0

    def progress(what: str, number: int, total: int) -> None:
        nonlocal done
        if not number:
            context.progress.start(total, unit="processes")
        context.progress.advance(number - done, note=what)
        done = number

    settings = BenchSettings(
        prompt_tokens=stage.prompt_tokens,
        completion_tokens=stage.completion_tokens,
        rounds=stage.rounds,
        threads=None,
    )
    measured = dict(zip(exports, bench_files(paths, settings=settings, progress=progress), strict=True))
    write_json(context.directory / "measurements.json", {name: found.as_dict() for name, found in measured.items()})
    first = next(iter(measured.values()))
    return {
        "files": {name: figures(found) for name, found in measured.items()},
        "prompt_tokens": first.prompt_tokens,
        "completion_tokens": first.completion_tokens,
        "warmup": first.warmup,
        "repeats": first.repeats,
        "rounds": len(first.rounds),
        "bandwidth_bytes_per_s": first.bandwidth_bytes_per_s,
    }


def figures(found: Measurement) -> dict[str, Any]:
    """Every figure of a file with its rounds, and how it was run."""
    whole = found.as_dict()
    return {
        **{name: whole[name] and whole[name] | {"rounds": getattr(found, name).rounds} for name in FIGURES},
        **{name: whole[name] for name in ("itl_s", "runtime", "version", "threads", "sweep_tpot_s", "context_length")},
    }
