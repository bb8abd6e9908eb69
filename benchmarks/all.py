"""Every benchmark one after another, each in a process of its own, and one table of all their rows.

    python benchmarks/all.py [--short] [NAME ...]     # `make bench` is the short form of all

Writes bench-results/NAME.json, NAME.log and results.md. Exits with 1 if a script failed, for instance because a peer is
not installed; a target that was not reached is said in the table and is no failure.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import measure

NAMES = (
    "kd_step", "kd_generation", "to_quality", "loss_memory", "rollouts", "scoring", "sft", "roofline", "cache",
)  # fmt: skip
TABLES = ("cache",)
"""Scripts that print tables of their own, and have one form only."""


def main() -> None:
    """Run, then print what was found."""
    parser = measure.options(__doc__)
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], help="which; all by default")
    options = parser.parse_args()
    started = time.monotonic()
    measure.RESULTS.mkdir(exist_ok=True)
    lines, tables = [*measure.HEADER], [""]
    feet: list[str] = []
    failed: list[str] = []
    for name in options.names or NAMES:
        made = run(name, short=options.short)
        if made is None:
            failed.append(name)
            lines.append(f"| {name} | | | | | | **failed**: {log_text(name).splitlines()[-1][:200]} |")
            continue
        if name in TABLES:
            tables += made["lines"]
            continue
        lines += made["lines"]
        feet.append(measure.footer(made))
    text = "\n".join([*lines, "", *(f"- {foot}" for foot in feet), *tables]) + "\n"
    (measure.RESULTS / "results.md").write_text(text)
    print(text)
    wanted = options.names or NAMES
    print(f"{len(wanted) - len(failed)} of {len(wanted)} benchmarks in {time.monotonic() - started:.0f} s")
    sys.exit(1 if failed else 0)


def run(name: str, *, short: bool) -> dict[str, Any] | None:
    """The results file of a script, with its rows as lines; None if it failed."""
    command = [
        sys.executable,
        str(Path(__file__).with_name(f"{name}.py")),
        *(["--short"] if short and name not in TABLES else []),
    ]
    started = time.monotonic()
    with (measure.RESULTS / f"{name}.log").open("w") as log:
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
    print(f"{name}: {time.monotonic() - started:.0f} s{'' if code == 0 else f', failed with {code}'}", flush=True)
    if code:
        return None
    if name in TABLES:
        return {"lines": [text for text in log_text(name).splitlines() if text.startswith(("|", "#"))]}
    made: dict[str, Any] = json.loads((measure.RESULTS / f"{name}.json").read_text())
    fields = ("what", "peer", "ours", "theirs", "ratios", "target", "note")
    made["lines"] = [measure.line(measure.Row(**{field: row[field] for field in fields})) for row in made["rows"]]
    return made


def log_text(name: str) -> str:
    """What a script printed."""
    return (measure.RESULTS / f"{name}.log").read_text().strip() or "no output"


if __name__ == "__main__":
    main()
