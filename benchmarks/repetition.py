"""How much of good and of looping completions `eyas.selection.repeated_share` marks: what a threshold would drop.

python benchmarks/repetition.py GSM8K_TRAIN.jsonl   # 80 s on 2 cores; needs eyas[smollm2]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from eyas.engines.respondent import load_respondent
from eyas.recipe import ExecutionSpec, ModelSpec, SamplingSpec, ThinkingSpec
from eyas.records import Example
from eyas.selection import repeated_share
from eyas.storage.models import materialise

QUESTIONS = 32
TOKENS = 256


def describe(name: str, shares: Sequence[float], *, cut: int = 0) -> None:
    """One line: how many, the largest share, and how many lie above Gopher's and data-juicer's limits."""
    values = np.array(shares)
    print(
        f"{name}: n {len(values)}, cut {cut}, largest {values.max():.3f}, "
        f"above 0.1 {(values > 0.1).mean():.1%}, above 0.5 {(values > 0.5).mean():.1%}"
    )


def main(path: Path) -> None:
    """Measure the file's solutions, then SmolLM2-135M's answers to its first questions, greedy and sampled."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    with TemporaryDirectory() as scratch:
        materialise(ModelSpec.model_validate({"from": "builtin:smollm2-135m"}), Path(scratch), seed=0)
        respondent = load_respondent(
            Path(scratch) / "model", dtype="float32", thinking=ThinkingSpec(), execution=ExecutionSpec()
        )
    describe("solutions", [repeated_share(respondent.tokenizer(row["answer"]).input_ids) for row in rows])
    examples = [Example(key=row["question"], prompt=(("user", row["question"]),)) for row in rows[:QUESTIONS]]
    for temperature in (0.0, 1.0):
        made = respondent.answer(
            [(example, "fast", 0) for example in examples],
            sampling=SamplingSpec(temperature=temperature, max_completion_tokens=TOKENS),
            source="student",
            seed=("repetition",),
        )
        cut = sum(item.finish_reason == "length" for item in made)
        describe(f"temperature {temperature:g}", [repeated_share(item.completion_ids) for item in made], cut=cut)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
