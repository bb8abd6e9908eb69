"""Imports go down: recipe and records know no torch, no stage imports a stage, no floor imports a higher one."""

from __future__ import annotations

import ast
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "eyas"
FLOORS = (
    {"errors", "recipe", "records", ""},
    {
        "losses",
        "logcodes",
        "targets",
        "sampling",
        "packing",
        "curriculum",
        "filtering",
        "selection",
        "synthesis",
        "stats",
        "proportions",
        "accuracy",
        "importance",
        "thinking",
        "splits",
        "parity",
        "budget",
        "grading",
        "latency",
    },
    {"storage", "engines", "runtimes", "export", "tasks", "builtin"},
    {"stages", "report"},
    {
        "__main__",
        "cli",
        "pipeline",
        "graph",
        "planning",
        "estimates",
        "preflight",
        "init",
        "chat",
        "console",
        "cli_bench",
        "cli_evaluate",
        "cli_measure",
        "cli_serve",
        "cli_edge",
        "deploy",
        "exporting",
        "harness",
        "suite",
        "measurement",
        "ablation",
    },
)
FILES = sorted(SOURCE.rglob("*.py"))


def floor_of(module: str) -> int:
    top = module.split(".")[1] if "." in module else ""
    return next(number for number, names in enumerate(FLOORS) if top in names)


def imports_of(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [f"{node.module}.{alias.name}" if node.module == "eyas" else node.module for alias in node.names]
    return [name for name in found if name == "eyas" or name.startswith("eyas.")]


def module_of(path: Path) -> str:
    parts = ["eyas", *path.relative_to(SOURCE).with_suffix("").parts]
    return ".".join(part for part in parts if part != "__init__")


def test_every_module_has_a_floor() -> None:
    assert len(FILES) > 40
    for path in FILES:
        assert floor_of(module_of(path)) >= 0


def test_contributing_lists_the_floors() -> None:
    rows = re.findall(r"^\| (\d) \|[^|]*\|(.*)\|$", (SOURCE.parents[1] / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    listed = {int(floor): set(re.findall(r"`(\w+)/?`", modules)) for floor, modules in rows}
    assert listed == {floor: names - {"", "__main__"} for floor, names in enumerate(FLOORS)}


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(SOURCE)) for path in FILES])
def test_no_import_goes_up(path: Path) -> None:
    for name in imports_of(path):
        if name != "eyas.__version__":
            assert floor_of(name) <= floor_of(module_of(path)), f"{path} imports {name}"


def test_no_stage_imports_a_stage() -> None:
    for path in (SOURCE / "stages").glob("*.py"):
        assert not [name for name in imports_of(path) if name.startswith("eyas.stages")], path


def test_recipe_loads_without_torch() -> None:
    code = "import sys, eyas.recipe, eyas.records, eyas.errors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_is_quick_and_loads_no_torch() -> None:
    code = "import sys; sys.argv = ['eyas', '--help']\nimport eyas.cli\nprint('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
    # On a slow or busy machine the help of a command that does nothing takes long as well.
    nothing = "import typer; app = typer.Typer(); app.command()(lambda: None); app(['--help'])"
    bare, ours = (
        min(_seconds(*arguments) for _ in range(3)) for arguments in (("-c", nothing), ("-m", "eyas", "--help"))
    )
    assert ours < max(0.5, 1.5 * bare)


def _seconds(*arguments: str) -> float:
    """Of a core: what other processes take of a busy machine is not this one's own."""
    started = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime - started.ru_utime - started.ru_stime


def test_files_stay_small() -> None:
    sizes = sorted(len(path.read_text().splitlines()) for path in FILES)
    assert sizes[len(sizes) // 2] <= 150
    assert sizes[int(len(sizes) * 0.9)] <= 300
    assert sizes[-1] <= 500
