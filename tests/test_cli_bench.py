"""`eyas bench` as a user runs it: the order of what it says, its errors, and what an interrupt leaves."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from rich.console import Console
from rich.table import Table
from typer.testing import CliRunner

from eyas import cli_bench
from eyas.cli import app
from eyas.errors import ModelError, RecipeError, StorageError
from eyas.latency import Figure, Generation, Round
from eyas.report.measurements import names_of, ratio_table
from eyas.report.words import confidence, mebibytes, milliseconds
from eyas.runtimes import bench
from eyas.runtimes.facts import file_facts
from eyas.runtimes.measurement import Measurement

SMALL = ("--prompt-tokens", "8", "--completion-tokens", "4", "--repeats", "1", "--threads", "1")


@pytest.fixture
def copied(nano_gguf: Path, tmp_path: Path) -> Path:
    """The same model under another name."""
    path = tmp_path / "copy.gguf"
    path.write_bytes(nano_gguf.read_bytes())
    return path


def run(*words: str) -> str:
    result = CliRunner().invoke(app, ["bench", *words], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_ratios_come_first_then_figures_the_limit_and_the_settings(
    nano_gguf: Path, copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "read_bandwidth", lambda: 1e10)
    kept = tmp_path / "bench.json"
    said = run(str(nano_gguf), str(copied), "--baseline", str(copied), "--rounds", "2", *SMALL, "--json", str(kept))
    headings = ["Times less than copy.gguf", "Measured", "Of the memory's limit (10.0 GB/s", "Prompt 8, completion 4"]
    places = [said.index(heading) for heading in headings]
    assert places == sorted(places)
    assert re.search(r"nano\.gguf +\d+\.\d\d× \[\d", said)
    assert "not measured" in said or "J/token" in said
    assert "decoding at depth 8 to 11" in said
    assert "xllamacpp 20" in said
    made = json.loads(kept.read_text())
    assert made["baseline"] == 1
    assert [Path(file["file"]["path"]).name for file in made["files"]] == ["nano.gguf", "copy.gguf"]
    assert [len(file["rounds"]) for file in made["files"]] == [2, 2]


def test_one_file_needs_no_baseline(nano_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "read_bandwidth", lambda: 1e10)
    said = run(str(nano_gguf), "--rounds", "1", *SMALL)
    assert said.startswith("Measured")
    assert "one round: 1 to warm up, 1 that count" in said


def test_what_cannot_be_measured_is_said_before_anything_runs(nano_gguf: Path, copied: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="not one of the files"):
        run(str(nano_gguf), "--baseline", str(copied))
    with pytest.raises(RecipeError, match="given twice"):
        run(str(nano_gguf), str(nano_gguf))
    copied.write_bytes(b"GGUF" + b"\0" * 50)
    with pytest.raises(ModelError, match=r"copy\.gguf: a damaged GGUF file"):
        run(str(nano_gguf), str(copied))
    with pytest.raises(ModelError, match=r"none\.gguf: expected a GGUF file"):
        run(str(tmp_path / "none.gguf"))


@pytest.mark.parametrize("place", ["none/b.json", "file/b.json", ""])
def test_figures_that_could_not_be_written_are_said_before_anything_runs(
    place: str, nano_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(bench, "bench_rounds", lambda *_, **__: pytest.fail("measured"))
    with pytest.raises(StorageError, match="--json"):
        run(str(nano_gguf), "--json", str(tmp_path / place))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_recipe_runs_in_its_workspace_and_files_have_none(nano_gguf: Path) -> None:
    asked: list[object] = []

    def run_stage(path: Path, out: Path, *_: object, stage: str, name: str | None) -> None:
        asked.extend((path, out, stage, name))

    own = typer.Typer()
    cli_bench.register(own, run_stage=run_stage)
    assert CliRunner().invoke(own, ["recipe.yaml", "--out", "/data"], catch_exceptions=False).exit_code == 0
    assert asked == [Path("recipe.yaml"), Path("/data"), "bench", None]
    with pytest.raises(RecipeError, match="Drop --out"):
        run(str(nano_gguf), "--out", "/data")


def test_an_interrupt_shows_the_whole_rounds(nano_gguf: Path, tmp_path: Path) -> None:
    kept = tmp_path / "bench.json"
    code = (  # says on stderr when a round is whole, and measures on
        "import sys, eyas.cli, eyas.runtimes.bench as bench\n"
        "bench.read_bandwidth = lambda: 1e10\n"
        "whole = bench.bench_rounds\n"
        "def told(*args, **kwargs):\n"
        "    for made in whole(*args, **kwargs):\n"
        "        yield made\n"
        "        print('whole', file=sys.stderr, flush=True)\n"
        "bench.bench_rounds = told\n"
        "eyas.cli.main()"
    )
    words = [sys.executable, "-c", code, "bench", str(nano_gguf), "--rounds", "500", *SMALL, "--json", str(kept)]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        assert child.stderr is not None
        for line in child.stderr:
            if line.strip() == "whole":
                break
        time.sleep(0.3)
        os.killpg(child.pid, signal.SIGINT)  # as a terminal does: the measuring process gets it too
        said, complaint = child.communicate(timeout=60)
    assert child.returncode == 1
    assert "Measured" in said
    rounds = len(json.loads(kept.read_text())["files"][0]["rounds"])
    assert 1 <= rounds < 500
    assert f"Interrupted after {rounds} of 500 rounds" in complaint
    assert "Traceback" not in complaint
    assert "continues" not in complaint  # another call begins anew


def test_help_shows_examples_and_loads_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['eyas', 'bench', '--help']\nimport eyas.cli\n"
        "try: eyas.cli.main()\nfinally: sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "eyas bench student-Q8_0.gguf teacher-Q8_0.gguf" in done.stdout


def a_measurement(path: Path, *, tpot_s: tuple[float, ...]) -> Measurement:
    rounds = tuple(
        Round(
            load_s=1.0,
            peak_rss_bytes=100,
            start_rss_bytes=50,
            energy_j=None,
            generations=(Generation(1.0, (gap,), library_prefill_s=1.0, library_decode_s=gap),),
        )
        for gap in tpot_s
    )
    return Measurement(
        file=file_facts(path), runtime="xllamacpp", version="1", threads=1, sweep_tpot_s={}, prompt_tokens=8,
        completion_tokens=2, context_length=256, warmup=1, repeats=1, bandwidth_bytes_per_s=1e10, rounds=rounds,
    )  # fmt: skip


def shown(table: Table) -> str:
    """As a narrow terminal has it."""
    with (console := Console(width=80)).capture() as caught:
        console.print(table)
    return caught.get()


def test_ratios_say_how_many_times_less_and_what_is_saved(nano_gguf: Path, copied: Path) -> None:
    slow = a_measurement(nano_gguf, tpot_s=(0.4, 0.8, 0.3))
    fast = a_measurement(copied, tpot_s=(0.1, 0.2, 0.1))
    table = ratio_table([slow, fast], baseline=0)
    assert list(table.columns[1].cells) == ["4.00× [3.00–4.00]\n75% saved"]
    assert list(ratio_table([slow, fast], baseline=1).columns[1].cells) == ["0.25× [0.25–0.33]\n300% more"]
    assert "least–greatest: 75% interval]" in shown(table)  # of three rounds
    assert names_of([slow, fast]) == ["nano.gguf", "copy.gguf"]
    assert names_of([slow, slow]) == [str(nano_gguf)] * 2


def test_no_number_of_rounds_makes_a_certain_interval() -> None:
    said = {rounds: confidence(Figure((1.0,) * rounds)) for rounds in (3, 5, 7, 9, 12, 500)}
    assert said == {3: "75%", 5: "94%", 7: "98%", 9: "99.6%", 12: "99.9%", 500: "99.9%"}  # 1 - 2^(1 - n)


def test_numbers_keep_the_digits_that_count() -> None:
    assert [milliseconds(seconds) for seconds in (7.12e-5, 0.01234, 1.5)] == ["0.0712 ms", "12.3 ms", "1,500 ms"]
    assert [mebibytes(count) for count in (640_000, 270_900_000)] == ["0.61 MiB", "258 MiB"]
