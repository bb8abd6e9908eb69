"""The raw GSM8K files as a recipe's data, no mapping written: what is trained on and how it is graded."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from pathlib import Path

import pytest
from conftest import STUDENT

from eyas.pipeline import run_recipe
from eyas.recipe import parse_recipe
from eyas.records import Example, SequenceRecord
from eyas.storage.context import SilentProgress
from eyas.storage.shards import read_records

GSM8K = Path(__file__).parents[2] / "shared" / "data" / "gsm8k"
pytestmark = pytest.mark.skipif(not GSM8K.is_dir(), reason="the GSM8K files are not beside this checkout")


def raw(name: str) -> dict[str, str]:
    """Question -> answer as the file has it."""
    rows = map(json.loads, (GSM8K / f"{name}.jsonl").read_text().splitlines())
    return {row["question"].strip(): row["answer"] for row in rows}


def test_a_recipe_on_the_raw_files_trains_and_evaluates(tmp_path: Path) -> None:
    recipe = parse_recipe(
        {
            "name": "gsm8k",
            "student": {"config": STUDENT | {"max_position_embeddings": 4096}, "tokenizer": "builtin:nano-student"},
            "thinking": "plain",
            "stages": [
                {"type": "prepare", "labelled": 24, "unlabelled": 8, "validation": 4, "test": 6,
                 "source": {"type": "file", "path": str(GSM8K / "train.jsonl"),
                            "test_path": str(GSM8K / "test.jsonl")}},
                {"type": "sft", "modes": {"reasoning": 3, "fast": 1},
                 "training": {"steps": 2, "batch_size": 8, "max_length": 4096}},
                {"type": "evaluate", "models": {"sft": "sft"}, "sampling": {"temperature": 0,
                 "max_completion_tokens": 16}},
                {"type": "report"},
            ],
            "execution": {"threads": 1, "trackers": [], "device": "cpu", "micro_batch_size": 4},
        }
    )  # fmt: skip
    run_recipe(recipe, recipe_text="", workspace=tmp_path, progress=lambda *_: nullcontext(SilentProgress()))
    run = tmp_path / "gsm8k"
    index = {name: run / path for name, path in json.loads((run / "index.json").read_text()).items()}
    splits = {
        split: list(read_records(index["prepare"] / "examples" / split, kind=Example))
        for split in ("labelled", "unlabelled", "test")
    }
    train, test = raw("train"), raw("test")
    for example in splits["labelled"]:
        reasoning, _, answer = train[example.prompt[-1][1]].partition("####")
        spoken = re.sub(r"<<[^>]*>>", "", reasoning).strip()  # the calculator's notes are no text to learn
        assert (example.reasoning, example.answer) == (spoken, answer.strip())
    assert all(example.answer is None and example.prompt[-1][1] in train for example in splits["unlabelled"])
    assert {example.prompt[-1][1] for example in splits["test"]} <= test.keys()

    facts = json.loads((index["sft"] / "manifest.json").read_text())["facts"]
    assert (facts["steps"], facts["dropped"]["longer_than_max_length"]) == (2, 0)
    predictions = list(read_records(index["evaluate.sft"] / "predictions", kind=SequenceRecord))
    assert len(predictions) == 2 * len(splits["test"])
    assert all(item.grade == 0.0 for item in predictions), "two steps from random weights answer nothing"
    accuracy = json.loads((run / "summary.json").read_text())["models"]["sft"]["accuracy"]
    assert (accuracy["reasoning"]["n"], accuracy["reasoning"]["value"]) == (6, 0.0)
    assert (run / "report.html").stat().st_size > 10_000
