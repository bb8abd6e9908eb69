"""Fixtures that many tests share: a random tiny pair with the real tokenizer, made once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from eyas.export.converter import Converter
    from eyas.export.reference import Reference

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["COLUMNS"] = "200"

TINY = {
    "model_type": "llama", "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}  # fmt: skip
STUDENT = {**TINY, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
TEACHER = {**TINY, "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch
    from transformers.utils import logging

    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _made(directory: Path, config: dict[str, object], seed: int) -> Path:
    from eyas.recipe import ModelSpec
    from eyas.storage.models import materialise

    spec = ModelSpec.model_validate({"config": config, "tokenizer": "builtin:tokenizer"})
    materialise(spec, directory, seed=seed)
    return directory / "model"


@pytest.fixture(scope="session")
def tiny_student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hugging Face directory of a random Llama of 30 k parameters."""
    return _made(tmp_path_factory.mktemp("student"), STUDENT, 1)


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hugging Face directory of a random Llama of 110 k parameters, same tokenizer."""
    return _made(tmp_path_factory.mktemp("teacher"), TEACHER, 2)


SMALL_RECIPE = """
name: small
student: {student}
teacher: {teacher}
thinking: qwen3
stages:
  - type: prepare
    source: {{type: arithmetic, terms: [2]}}
    labelled: 48
    unlabelled: 48
    validation: 8
    test: 16
    off_task: {{type: words}}
    off_task_count: 4
  - {{type: sft, modes: {{reasoning: 1, fast: 1}}, training: {{batch_size: 16, steps: 12, learning_rate: 3.0e-3}}}}
  - type: distill
    model: sft
    rounds: 2
    rollout: {{samples_per_prompt: 2, sampling: {{max_completion_tokens: 24}}}}
    curriculum: {{weight: frontier, pseudo_answers: teacher-rollouts}}
    training: {{batch_size: 16, steps: 10, learning_rate: 3.0e-3}}
  - type: sft
    name: control
    model: sft
    modes: {{reasoning: 1, fast: 1}}
    match_tokens: distill
    select: best
    selections: 2
    sampling: {{temperature: 0, max_completion_tokens: 24}}
    training: {{batch_size: 16, learning_rate: 1.0e-3}}
  - type: evaluate
    models: {{base: student, sft: sft, control: control, distilled: distill, teacher: teacher}}
    sampling: {{temperature: 0, max_completion_tokens: 24}}
    divergence_prompts: 8
  - {{type: report, transcripts: 2}}
execution: {{micro_batch_size: 8, generation_batch_size: 64, checkpoint_every: 4, threads: 1, trackers: []}}
"""


def write_small_recipe(path: Path, student: Path, teacher: Path) -> Path:
    """Write SMALL_RECIPE for a pair of directories."""
    before, after = SMALL_RECIPE.format(student=student, teacher=teacher).split("  - type: distill")
    rollouts = (
        "  - {type: rollout, name: teacher-rollouts, model: teacher, prefix: teacher,"
        " sampling: {max_completion_tokens: 24}}\n"
    )
    path.write_text(f"{before}{rollouts}  - type: distill{after}")
    return path


@pytest.fixture
def small_recipe(tmp_path: Path, tiny_student: Path, tiny_teacher: Path) -> Path:
    """A whole recipe that runs in seconds, on the tiny pair."""
    return write_small_recipe(tmp_path / "small.yaml", tiny_student, tiny_teacher)


@pytest.fixture
def sentence_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NLTK's sentence model in its own format, almost empty: one abbreviation learnt."""
    nltk = pytest.importorskip("nltk")
    instructions_util = pytest.importorskip("if_verifiable.ifeval.instructions_util")
    from eyas.grading import instructions

    folder = tmp_path / "tokenizers" / "punkt_tab" / "english"
    folder.mkdir(parents=True)
    files = {"abbrev_types.txt": "mr\n", "collocations.tab": "", "sent_starters.txt": "", "ortho_context.tab": ""}
    for name, content in files.items():
        (folder / name).write_text(content)
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    instructions._can_check.cache_clear()
    instructions_util._get_sentence_tokenizer.cache_clear()


@pytest.fixture(scope="session")
def gguf_converter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Converter]:
    """The converter in an environment made for this test session, one process for all conversions."""
    from eyas.export.converter import Converter

    with Converter(tmp_path_factory.mktemp("cache")) as converter:
        yield converter


@pytest.fixture(scope="session")
def nano_gguf(gguf_converter: Converter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`builtin:nano-student` in F16."""
    from eyas.builtin import DIRECTORY
    from eyas.export.gguf import export_gguf

    out = tmp_path_factory.mktemp("gguf") / "nano.gguf"
    return export_gguf(DIRECTORY / "nano-student", out=out, converter=gguf_converter).files[0]


@pytest.fixture(scope="session")
def nano_references() -> list[Reference]:
    """What `builtin:nano-student` itself does after three real prompts."""
    from eyas.builtin import DIRECTORY
    from eyas.export.reference import reference_of
    from eyas.recipe import THINKING_FORMATS
    from eyas.records import Example
    from eyas.storage.models import load_model
    from eyas.storage.tokenization import encode_prompt, load_tokenizer

    path, thinking = DIRECTORY / "nano-student", THINKING_FORMATS["qwen3"]
    model, tokenizer = load_model(path), load_tokenizer(path)
    prompts = [Example(key=text, prompt=(("user", text),)) for text in ("27-35+48", "reverse 4071", "99+1-50")]
    return [reference_of(model, encode_prompt(tokenizer, prompt, "reasoning", thinking=thinking)) for prompt in prompts]
