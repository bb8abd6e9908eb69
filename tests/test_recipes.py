"""The recipes that need hardware or network this machine lacks, planned with tiny stand-ins of the same layout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from eyas.recipe import ModelSpec
from eyas.storage.models import materialise

RECIPES = Path(__file__).parents[1] / "recipes"
SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 16384,
}  # fmt: skip


def stand_in(directory: Path, **config: object) -> Path:
    spec = ModelSpec.model_validate({"config": {**SMALL, **config}, "tokenizer": "builtin:tokenizer"})
    materialise(spec, directory, seed=0)
    return directory / "model"


def data(tmp_path: Path, count: int = 200) -> Path:
    path = tmp_path / "train.jsonl"
    rows = [
        {"question": f"What is {i} plus {j}?", "answer": f"{i}+{j}={i + j}\n#### {i + j}"}
        for i in range(count // 10)
        for j in range(10)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def plan(recipe: str, student: Path, teacher: Path, file: Path, tmp_path: Path) -> str:
    done = subprocess.run(
        [
            sys.executable, "-m", "eyas", "plan", str(RECIPES / recipe), "--out", str(tmp_path / "runs"),
            "--set", f"student={student}", "--set", f"teacher={teacher}",
            "--set", f"stages.prepare.source={{type: file, path: {file}}}",
        ],
        capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "200"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_qwen3_recipe_plans_with_stand_ins(tmp_path: Path) -> None:
    student = stand_in(tmp_path / "s", model_type="qwen3", tie_word_embeddings=True)
    teacher = stand_in(tmp_path / "t", model_type="qwen3", num_hidden_layers=3, tie_word_embeddings=False)
    output = plan("qwen3-gpu.yaml", student, teacher, data(tmp_path), tmp_path)
    assert "distill.2.rollout" in output
    assert "320 tokens with the same ids" in output


def test_openpangu_recipe_plans_with_stand_ins_without_remote_code(tmp_path: Path) -> None:
    paths = []
    for name, layers in (("s", 2), ("t", 3)):
        path = stand_in(tmp_path / name, model_type="llama", attention_bias=True, num_hidden_layers=layers)
        config = json.loads((path / "config.json").read_text())
        config |= {"model_type": "PanguEmbedded", "architectures": ["PanguEmbeddedForCausalLM"], "bias": True}
        config |= {"auto_map": {"AutoConfig": "configuration_openpangu_dense.PanguEmbeddedConfig"}}
        del config["attention_bias"]
        (path / "config.json").write_text(json.dumps(config))
        paths.append(path)
    output = plan("openpangu-1b.yaml", paths[0], paths[1], data(tmp_path), tmp_path)
    assert "distill-reasoning.2.rollout" in output
    assert "M parameters, 2 layers" in output


@pytest.mark.parametrize("recipe", ["smollm2.yaml", "smollm2-teacher.yaml", "quickstart.yaml", "nano-pretrain.yaml"])
def test_recipes_for_this_machine_name_models_that_exist_here(recipe: str) -> None:
    text = (RECIPES / recipe).read_text()
    assert "builtin:" in text
    assert "huggingface.co" not in text
