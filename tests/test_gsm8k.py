"""The raw GSM8K files, with nothing said about their fields: a run trains on them and evaluates on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from eyas.records import Example
from eyas.storage.shards import read_records

GSM8K = Path(__file__).parents[2] / "shared" / "data" / "gsm8k"
SHAPE = {
    "model_type": "qwen3",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@pytest.mark.skipif(not GSM8K.is_dir(), reason="the GSM8K files are not beside this checkout")
def test_a_run_on_the_raw_files_trains_and_evaluates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from eyas.cli import main

    source = {"type": "file", "path": str(GSM8K / "train.jsonl"), "test_path": str(GSM8K / "test.jsonl")}
    training = {"batch_size": 8, "epochs": 1, "learning_rate": 0.01, "warmup": 0.0}
    recipe = {
        "name": "gsm8k",
        "student": {"config": SHAPE, "tokenizer": "builtin:nano-student"},
        "stages": [
            {"type": "prepare", "source": source, "labelled": 48, "validation": 4, "test": 6},
            {"type": "sft", "modes": {"reasoning": 3, "fast": 1}, "training": training},
            {"type": "evaluate", "models": {"sft": "sft"}, "sampling": {"temperature": 0, "max_completion_tokens": 8}},
        ],
    }
    path = tmp_path / "gsm8k.yaml"
    path.write_text(yaml.safe_dump(recipe))
    monkeypatch.setattr("sys.argv", ["eyas", "run", str(path), "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit, match=r"^0$"):
        main()
    made = {item.name.partition("-")[0]: item for item in (tmp_path / "run" / "artifacts").iterdir()}
    raw = rows(GSM8K / "train.jsonl") + rows(GSM8K / "test.jsonl")
    answers = {row["question"].strip(): row["answer"].rpartition("#### ")[2].strip() for row in raw}
    for split, count in {"labelled": 48, "test": 6}.items():
        examples = list(read_records(made["prepare"] / "examples" / split, kind=Example))
        assert len(examples) == count
        assert all(example.answer == answers[example.prompt[-1][1]] for example in examples)
    losses = [row["loss"] for row in rows(made["sft"] / "log.jsonl")]
    # From about ln(vocabulary) down: it learns something from 48 problems in a few steps.
    assert losses[-1] < losses[0] - 0.1
    accuracy = json.loads((made["evaluate"] / "manifest.json").read_text())["facts"]["accuracy"]
    assert {mode: found["n"] for mode, found in accuracy.items()} == {"reasoning": 6, "fast": 6}
