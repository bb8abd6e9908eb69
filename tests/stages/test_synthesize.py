"""Synthesis by the embedded teacher: agreement finds the right answers without seeing any."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import pytest

from eyas.errors import DataError
from eyas.pipeline import run_recipe
from eyas.recipe import parse_recipe
from eyas.records import Example, SequenceRecord
from eyas.storage.context import SilentProgress
from eyas.storage.shards import read_records

RECIPE = {
    "name": "synthetic",
    "student": "builtin:nano-student",
    "teacher": "builtin:nano-teacher",
    "thinking": "qwen3",
    "stages": [
        {"type": "prepare", "source": {"type": "arithmetic", "terms": [3]}, "labelled": 16, "unlabelled": 48,
         "validation": 4, "test": 4},
        {"type": "synthesize", "prompts": "all", "samples_per_prompt": 6, "modes": ["fast"], "min_agreement": 0.5,
         "sampling": {"max_completion_tokens": 12}},
        {"type": "sft", "sequences": "synthesize", "modes": {"fast": 1}, "training": {"steps": 2, "batch_size": 8}},
    ],
    "execution": {"threads": 1, "trackers": [], "device": "cpu"},
}  # fmt: skip


def silent(*_: object) -> nullcontext[SilentProgress]:
    return nullcontext(SilentProgress())


def truth(example: Example) -> str:
    return str(sum(int(term) for term in example.key.removeprefix("arithmetic:").split(",")))


def test_agreement_is_right_more_often_than_a_sample_and_grades_spend_no_hidden_label(tmp_path: Path) -> None:
    recipe = parse_recipe(RECIPE)
    run_recipe(recipe, recipe_text="", workspace=tmp_path, progress=silent)
    run = tmp_path / "synthetic"
    index = {name: run / path for name, path in json.loads((run / "index.json").read_text()).items()}

    def sequences(stage: str) -> list[SequenceRecord]:
        return list(read_records(index[stage] / "sequences", kind=SequenceRecord))

    def right(found: list[SequenceRecord]) -> float:
        return sum(item.answer == answers[item.example_id] for item in found) / len(found)

    hidden = list(read_records(index["prepare"] / "examples" / "unlabelled", kind=Example))
    labelled = list(read_records(index["prepare"] / "examples" / "labelled", kind=Example))
    answers = {example.id: truth(example) for example in [*hidden, *labelled]}
    sampled, kept = sequences("synthesize.rollout"), sequences("synthesize")
    facts = json.loads((index["synthesize"] / "manifest.json").read_text())["facts"]

    unlabelled = {example.id for example in hidden}
    assert all(item.grade is None for item in sampled if item.example_id in unlabelled)
    agreed = [item for item in kept if item.example_id in unlabelled]
    assert right(agreed) > right([item for item in sampled if item.example_id in unlabelled]) + 0.1
    assert right([item for item in kept if item.example_id not in unlabelled]) == 1.0
    assert facts["agreed"] == len(agreed)
    assert facts["verified"] == len(kept) - len(agreed)
    assert facts["verified"] + facts["agreed"] + sum(facts["dropped"].values()) == 64
    trained = json.loads((index["sft"] / "manifest.json").read_text())["facts"]
    assert trained["steps"] == 2


def test_a_file_of_prompts_alone_trains_a_student_and_ranks_its_prompts(tmp_path: Path) -> None:
    """Answered problems are in the test file only: labels, pass rates and the divergence come from the teacher."""
    sums = [f"{first}{sign}{second}" for first in range(11, 51) for second in (17, 38) for sign in "+-"]
    rows = [{"prompt": text} for text in sums]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tests = [{"prompt": f"{number}+41", "answer": str(number + 41)} for number in range(40, 48)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tests))
    source = {"type": "file", "path": str(tmp_path / "prompts.jsonl"), "test_path": str(tmp_path / "test.jsonl")}
    sampling = {"max_completion_tokens": 12}
    stages = [
        {"type": "prepare", "source": source, "labelled": 0, "unlabelled": 32, "validation": 4, "test": 8},
        {"type": "synthesize", "samples_per_prompt": 4, "modes": ["fast"], "sampling": sampling},
        {
            "type": "sft", "sequences": "synthesize", "modes": {"fast": 1}, "training": {"steps": 2, "batch_size": 8},
            "curriculum": {
                "difficulty": {"model": "student", "prompts": "unlabelled", "modes": ["fast"], "sampling": sampling},
                "pseudo_answers": "synthesize", "weight": "frontier", "order": "competence",
            },
        },
        {
            "type": "evaluate", "models": {"sft": "sft"}, "modes": ["fast"], "divergence_prompts": 2,
            "sampling": sampling | {"temperature": 0},
        },
        {"type": "report"},
    ]  # fmt: skip
    run_recipe(parse_recipe(RECIPE | {"stages": stages}), recipe_text="", workspace=tmp_path, progress=silent)
    run = tmp_path / "synthetic"
    index = {name: run / path for name, path in json.loads((run / "index.json").read_text()).items()}
    facts = {name: json.loads((path / "manifest.json").read_text())["facts"] for name, path in index.items()}
    assert facts["prepare"]["counts"] == {"labelled": 0, "unlabelled": 32, "validation": 4, "test": 8, "off_task": 0}
    assert facts["synthesize"]["verified"] == 0
    assert facts["synthesize"]["agreed"] == facts["sft"]["sequences"] > 8
    rates = facts["sft"]["pass_rates"]
    assert (rates["graded"], rates["pseudo"], rates["trained_without"]) == (0, facts["synthesize"]["agreed"], 0)
    assert facts["evaluate.sft"]["accuracy"]["fast"]["n"] == 8
    assert facts["evaluate.sft"]["divergence"]["teacher"]["value"] > 0
    page = (index["report"] / "report.html").read_text()
    assert "SFT on the teacher’s completions" in page
    assert "curriculum SFT on labels" not in page

    stages[2] = stages[2] | {"select": "best", "sampling": sampling | {"temperature": 0}}
    with pytest.raises(DataError, match=r"none of the 4 validation examples has an answer. Set `select: last`"):
        run_recipe(parse_recipe(RECIPE | {"stages": stages}), recipe_text="", workspace=tmp_path, progress=silent)


def test_a_teacher_that_never_agrees_is_one_clear_error(tmp_path: Path, tiny_student: Path) -> None:
    stages = RECIPE["stages"]
    assert isinstance(stages, list)
    hopeless = [stages[0], stages[1] | {"model": "student", "prompts": "unlabelled", "min_agreement": 1.0}]
    with pytest.raises(DataError, match=r"none of the 48 prompts has a completion .*\(48 no_agreement\)"):
        run_recipe(
            parse_recipe(RECIPE | {"student": str(tiny_student), "stages": hopeless}),
            recipe_text="",
            workspace=tmp_path,
            progress=silent,
        )
