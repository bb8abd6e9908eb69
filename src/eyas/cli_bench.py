"""`eyas bench`: exported files beside one another on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eyas.cli_evaluate import RECIPES, RunStage, refuse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eyas.runtimes.bench import BenchSettings
    from eyas.runtimes.measurement import Measurement

EXAMPLES = (
    "Examples:",
    "eyas bench student-Q8_0.gguf teacher-Q8_0.gguf --baseline teacher-Q8_0.gguf",
    "eyas bench model-F16.gguf model-Q8_0.gguf model-Q4_0.gguf     (quantisation: ratios to the first)",
    "eyas bench recipe.yaml     (its bench stages, and what they need)",
    "eyas bench model.gguf onnx-directory --prompt-tokens 128 --completion-tokens 64 --json bench.json",
)

OUT = Path("runs")

Files = Annotated[
    list[Path],
    typer.Argument(metavar="FILE…", help="GGUF files, directories of ONNX or ORT-GenAI exports.", show_default=False),
]
Prompt = Annotated[
    int, typer.Option("--prompt-tokens", min=1, help="Length of the prompt; cut where a context is too small.")
]
Completion = Annotated[int, typer.Option("--completion-tokens", min=2, help="Tokens generated; cut likewise.")]
Rounds = Annotated[int, typer.Option("--rounds", min=1, help="Processes of each file, in turn.")]
Repeats = Annotated[int, typer.Option("--repeats", min=1, help="Generations that count, in each process.")]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="Threads; each file's best of 1, half and all cores.", show_default=False),
]
Baseline = Annotated[
    Path | None,
    typer.Option("--baseline", metavar="FILE", help="Ratios are to this one of the files; the first by default."),
]
Soc = Annotated[
    str | None,
    typer.Option("--soc", metavar="310B1|…", help="Run directories' .om files on this Ascend chip; not run here."),
]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write every figure and round here.")]
Out = Annotated[Path, typer.Option("--out", help="Workspace of a recipe: artifacts and runs are kept here.")]


def register(app: typer.Typer, *, run_stage: RunStage) -> None:
    """Add the command to `app`."""

    def bench(
        files: Files,
        prompt_tokens: Prompt = 512,
        completion_tokens: Completion = 128,
        rounds: Rounds = 5,
        repeats: Repeats = 3,
        threads: Threads = None,
        baseline: Baseline = None,
        soc: Soc = None,
        json: Json = None,
        out: Out = OUT,
    ) -> None:
        """Measure exported files on this machine, in turns: latency, memory, tokens a second; ratios first.

        Let nothing else run meanwhile. Ctrl-C shows the rounds that are complete.
        """
        if len(files) == 1 and files[0].suffix in RECIPES:
            of_files: dict[str, object] = {"--prompt-tokens": prompt_tokens != 512, "--rounds": rounds != 5}
            of_files |= {"--completion-tokens": completion_tokens != 128, "--repeats": repeats != 3}
            of_files |= {"--threads": threads, "--baseline": baseline, "--soc": soc, "--json": json}
            refuse(f"{files[0]} is a recipe, whose bench stages say all that themselves", of_files)
            run_stage(files[0], out, None, None, stage="bench", name=None)
            return
        refuse("files are measured without a workspace", {"--out": out != OUT})
        from eyas.errors import RecipeError
        from eyas.runtimes.bench import BenchSettings

        resolved = [path.resolve() for path in files]
        if len(set(resolved)) < len(resolved):
            raise RecipeError("one file was given twice. Name each once.")
        if baseline is not None and baseline.resolve() not in resolved:
            raise RecipeError(f"--baseline {baseline}: not one of the files. Name it among them as well.")
        settings = BenchSettings(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            rounds=rounds,
            repeats=repeats,
            threads=threads,
            soc=soc,
        )
        place = None if json is None else _writable(json)
        measured = _measured(files, settings)
        _show(measured, baseline=0 if baseline is None else resolved.index(baseline.resolve()), to=place)
        if len(measured[0].rounds) < rounds:
            raise typer.Exit(code=1)

    app.command(epilog="\n\n".join(EXAMPLES))(bench)


def _writable(path: Path) -> Path:
    """Where a link leads to, tried before minutes of measuring.

    Raises: StorageError, if no file can be written there.
    """
    from tempfile import TemporaryFile

    from eyas.errors import StorageError

    place = path.resolve()
    if place.exists() and not place.is_file():
        raise StorageError(f"--json {path}: is there, and no file. Name another one.")
    try:
        with TemporaryFile(dir=place.parent):
            return place
    except OSError as error:
        raise StorageError(
            f"--json {path}: no file can be written into {place.parent} ({error.strerror}). Name a file "
            "in a directory that is there and can be written to."
        ) from error


def _measured(files: Sequence[Path], settings: BenchSettings) -> tuple[Measurement, ...]:
    """All rounds, or after Ctrl-C those that are whole.

    Raises: BenchError, where there is none.
    """
    from rich.console import Console

    from eyas.errors import BenchError
    from eyas.runtimes.bench import bench_rounds

    console = Console(stderr=True, highlight=False)
    found: tuple[Measurement, ...] = ()
    with console.status("reading the files") as status:

        def progress(what: str, done: int, total: int) -> None:
            status.update(f"{done + 1} of {total}: {what}" if done < total else what)

        try:
            for after_round in bench_rounds(files, settings=settings, progress=progress):
                found = after_round
        except KeyboardInterrupt:
            if not found:
                raise BenchError("interrupted before the first round was whole, so there is nothing to show.") from None
    if len(found[0].rounds) < settings.rounds:
        console.print(f"Interrupted after {len(found[0].rounds)} of {settings.rounds} rounds; these are whole.")
    return found


def _show(measured: Sequence[Measurement], *, baseline: int, to: Path | None) -> None:
    from rich.console import Console

    from eyas.report.measurements import figure_table, limit_lines, ratio_table, setting_lines
    from eyas.storage.artifacts import write_json
    from eyas.storage.processor import core_count, cpu_name, total_memory_bytes

    console = Console(highlight=False)
    machine = f"{core_count()} cores of {cpu_name()}, {total_memory_bytes() / 2**30:.1f} GiB"
    if len(measured) > 1:
        console.print(ratio_table(measured, baseline=baseline))
    console.print(figure_table(measured))
    for line in [*limit_lines(measured), "", *setting_lines(measured, machine=machine)]:
        console.print(line, markup=False, soft_wrap=True)
    if to is not None:
        made = {"machine": machine, "baseline": baseline, "files": [one.as_dict() for one in measured]}
        write_json(to, made)
