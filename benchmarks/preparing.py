"""Preparation of a file larger than one likes to hold: records a second and the peak memory of the whole process.

    python benchmarks/preparing.py                      # 100,000 records
    python benchmarks/preparing.py --records 1000000    # the promise: less than 1 GiB
    python benchmarks/preparing.py --short              # 20,000 records

Writes a JSONL of word problems with planted exact duplicates, near-duplicates (the last word is another), leaks of a
test file and near-leaks (the middle word is another), runs `eyas run` on a recipe that only prepares it in a process of
its own, and checks that the planted ones were found. Memory is its ru_maxrss, torch and all. Prints Markdown.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random

import measure

from eyas.recipe import ExecutionSpec
from eyas.splits import split_of
from eyas.storage.hardware import describe_hardware

LIMIT_MIB = 1024
TEST = 2000
PLANTED = 200
"""Of each kind of leak; duplicates and near-duplicates are one in 100 records each."""
WORDS = 25
"""Of a problem; with the middle one changed no 13 in a row are left, and 20 of 26 three-word runs are the same."""
FOUND = {"duplicate": 1.0, "near_duplicate": 0.99, "same_as_evaluation": 1.0, "near_evaluation": 0.9}
"""Kind -> share that must be found: similarity is estimated with a standard error of 0.04, and must be 0.7."""
NOUNS = [f"{a}{b}{c}" for a in ("ba", "ko", "mi", "ru", "ze") for b in ("la", "ne", "ti", "vo") for c in "dmsrkn"]


@dataclass(frozen=True)
class Planted:
    """How many records of each kind a file got."""

    rows: int
    duplicate: int
    near_duplicate: int
    same_as_evaluation: int
    near_evaluation: int


def main() -> None:
    """Generate, prepare, check, print."""
    parser = measure.options(__doc__)
    parser.add_argument("--records", type=int, default=100_000, help="training records that must come out, at least")
    options = parser.parse_args()
    records = 20_000 if options.short else options.records
    with tempfile.TemporaryDirectory(dir=".") as scratch:
        show(Path(scratch), records)


def show(directory: Path, records: int) -> None:
    """One run, as a row of a table; exits with 1 if something planted was not found or the limit was passed."""
    planted = generate(directory, records)
    seconds, peak_mib = prepare(directory, planted)
    (artifact,) = (directory / "runs" / "artifacts").glob("prepare-*")
    manifest = json.loads((artifact / "manifest.json").read_text())
    facts, found = manifest["facts"], found_reasons(artifact)
    prepared = facts["counts"]["labelled"] + facts["counts"]["unlabelled"]
    megabytes = (directory / "train.jsonl").stat().st_size / 1e6
    machine = describe_hardware(ExecutionSpec(device="cpu"))
    print("| records read | MB | prepared | seconds | records/s | peak RSS, MiB | must stay below |")
    print("|---|---|---|---|---|---|---|")
    print(
        f"| {planted.rows:,} | {megabytes:,.0f} | {prepared:,} | {seconds:.0f} | {planted.rows / seconds:,.0f} "
        f"| {peak_mib:,.0f} | {LIMIT_MIB:,} |"
    )
    print("\n| planted | records | found |\n|---|---|---|")
    missed = []
    for reason, least in FOUND.items():
        count = getattr(planted, reason)
        missed += [reason] if found[reason] < least * count else []
        print(f"| {reason} | {count:,} | {found[reason]:,} |")
    print(
        f"\n- `python benchmarks/preparing.py {' '.join(sys.argv[1:])}`, commit {measure.commit()}, "
        f"{machine['cores']} × {machine['cpu']}, load {os.getloadavg()[0]:.1f}"
    )
    if missed or peak_mib > LIMIT_MIB or prepared < records:
        sys.exit(f"missed: {missed}; {prepared:,} of {records:,} prepared; peak {peak_mib:,.0f} MiB")


def generate(directory: Path, records: int) -> Planted:
    """`train.jsonl` and `test.jsonl`: enough that `records` are left when 5 % are validation and the planted go."""
    numbers = range(int(records * 1.08) + 2000)
    rows, planted = 0, Counter[str]()
    with (directory / "test.jsonl").open("w") as file:
        file.writelines(line(problem(number, seed="test"), number) for number in range(TEST))
    with (directory / "train.jsonl").open("w") as file:
        for number in numbers:
            texts = {"": problem(number, seed="train")}
            if number % 100 == 0:
                texts["duplicate"] = texts[""].upper()
            elif number % 100 == 50:
                texts["near_duplicate"] = changed(texts[""], at=WORDS - 1)
            if number < PLANTED:
                texts["same_as_evaluation"] = problem(number, seed="test")
                texts["near_evaluation"] = changed(problem(PLANTED + number, seed="test"), at=WORDS // 2)
            rows += len(texts)
            file.writelines(line(text, number) for text in texts.values())
            # A repetition is met in training only where both, being two texts, are no validation problems.
            planted.update(
                name for name, text in texts.items()
                if trained(text) and (name in ("same_as_evaluation", "near_evaluation") or trained(texts[""]))
            )  # fmt: skip
    return Planted(rows, **{name: planted[name] for name in FOUND})


def problem(number: int, *, seed: str) -> str:
    """WORDS words and one number."""
    words = Random(f"{seed} {number}").choices(NOUNS, k=WORDS)
    words[3] = str(number % 1000)
    return " ".join(words).capitalize() + "?"


def changed(text: str, *, at: int) -> str:
    """The same with another word."""
    words = text.split()
    words[at] = f"other{words[at]}"
    return " ".join(words)


def line(text: str, number: int) -> str:
    """A record."""
    return json.dumps({"question": text, "answer": f"It is so.\n#### {number}"}) + "\n"


def trained(text: str) -> bool:
    """Whether a record of the training file is a training example."""
    return split_of(text) != "validation"


def prepare(directory: Path, planted: Planted) -> tuple[float, float]:
    """Seconds and peak MiB of `eyas run`, all training examples taken, a tenth of them labelled."""
    source = {"type": "file", "path": str(directory / "train.jsonl"), "test_path": str(directory / "test.jsonl")}
    stage = {
        "type": "prepare", "source": source, "labelled": planted.rows // 10, "unlabelled": planted.rows, "test": TEST,
    }  # fmt: skip
    recipe = directory / "recipe.yaml"
    recipe.write_text(json.dumps({"name": "preparing", "student": "builtin:nano-student", "stages": [stage]}))
    started = time.monotonic()
    child = subprocess.Popen([sys.executable, "-m", "eyas", "run", str(recipe), "--out", str(directory / "runs")])
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"`eyas run` failed with {child.returncode}")
    return time.monotonic() - started, usage.ru_maxrss / 1024


def found_reasons(artifact: Path) -> Counter[str]:
    """Lines of `dropped.jsonl` by reason."""
    with (artifact / "dropped.jsonl").open() as lines:
        return Counter(json.loads(row)["reason"] for row in lines)


if __name__ == "__main__":
    main()
