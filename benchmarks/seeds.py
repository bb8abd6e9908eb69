"""A recipe over several seeds: mean accuracy by role, and paired differences pooled over seeds and examples.

    python benchmarks/seeds.py recipes/quickstart.yaml --seeds 0 1 2

Stages that were already made in the workspace are not made again. Prints Markdown, for README and LOG.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import mean

from eyas.recipe import load_recipe
from eyas.report.compare import PAIRS
from eyas.report.evidence import Predictions, read_predictions
from eyas.report.words import label
from eyas.stats import pooled_difference


def main() -> None:
    """Run the missing seeds, then print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs"))
    options = parser.parse_args()
    name = load_recipe(options.recipe).name
    runs = [run(options.recipe, options.out, name=name, seed=seed) for seed in options.seeds]
    roles = [role for role in runs[0] if all(role in found for found in runs)]
    modes = sorted({mode for _, mode in runs[0][roles[0]]}, reverse=True)
    shared = all(set(found[role]) == set(runs[0][roles[0]]) for found in runs for role in roles)
    print(f"| mean over seeds {options.seeds} | " + " | ".join(f"{mode}, %" for mode in modes) + " |")
    print("|---|" + "---|" * len(modes))
    for role in roles:
        cells = [f"{100 * mean(mean(grades(found[role], mode)) for found in runs):.1f}" for mode in modes]
        print(f"| {label(role)} | " + " | ".join(cells) + " |")
    print("\n| difference, points | mode | pooled, 95 % | by seed | n |\n|---|---|---|---|---|")
    for a, b in PAIRS:
        if a not in roles or b not in roles:
            continue
        for mode in modes:
            pairs = [(grades(found[a], mode), grades(found[b], mode)) for found in runs]
            pooled = pooled_difference(pairs, same_examples=shared)
            interval = f"{100 * pooled.difference:+.1f} [{100 * pooled.low:+.1f}, {100 * pooled.high:+.1f}]"
            by_seed = ", ".join(f"{100 * value:+.1f}" for value in pooled.per_seed)
            print(f"| {label(a)} − {label(b)} | {mode} | {interval} | {by_seed} | {pooled.n} |")


def run(recipe: Path, out: Path, *, name: str, seed: int) -> dict[str, Predictions]:
    """Role -> predictions of one seed's run."""
    own = f"{name}-seed{seed}"
    command = [sys.executable, "-m", "eyas", "run", str(recipe), "--out", str(out)]
    subprocess.run([*command, "--set", f"seed={seed}", "--set", f"name={own}"], check=True, stdout=sys.stderr)
    index = json.loads((out / own / "index.json").read_text())
    return {
        stage.removeprefix("evaluate."): read_predictions(out / own / artifact / "predictions")
        for stage, artifact in index.items()
        if (out / own / artifact / "predictions").is_dir()
    }


def grades(predictions: Predictions, mode: str) -> list[float]:
    """In one order for every model and seed."""
    return [answer.grade or 0.0 for (_, own), answer in sorted(predictions.items()) if own == mode]


if __name__ == "__main__":
    main()
