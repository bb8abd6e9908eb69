"""Prepare: what reaches training, what never does, and what it says when there is nothing to give."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pyarrow.parquet as pq
import pytest

from eyas.errors import DataError, RecipeError
from eyas.filtering.text import prompt_text
from eyas.recipe import PrepareStage, parse_recipe
from eyas.records import Example, Split
from eyas.stages import prepare
from eyas.storage.artifacts import StageClock
from eyas.storage.context import SilentProgress, StageContext
from eyas.storage.shards import read_records

GSM8K = Path(__file__).parents[3] / "shared" / "data" / "gsm8k"
ARITHMETIC = {"type": "arithmetic", "terms": [2]}
CHAINS = {"type": "reasoning_gym", "tasks": {"chain_sum": {"max_terms": 3, "min_digits": 2, "max_digits": 2}}}
TRAINING: tuple[Split, ...] = ("labelled", "unlabelled")
WORDS = [f"{first}{last}" for first in ("ka", "lo", "mi", "nu", "re", "so") for last in ("ba", "de", "fi", "go", "tu")]
HELD_OUT: tuple[Split, ...] = ("validation", "test")


@dataclass
class Prepared:
    directory: Path
    facts: dict[str, Any]

    def __getitem__(self, split: Split) -> list[Example]:
        return list(read_records(self.directory / "examples" / split, kind=Example))

    def dropped(self) -> list[dict[str, str]]:
        return [json.loads(line) for line in (self.directory / "dropped.jsonl").read_text().splitlines()]


def prepared(tmp_path: Path, source: dict[str, Any], *, seed: int = 0, **fields: Any) -> Prepared:
    stage = {
        "type": "prepare",
        "source": source,
        "labelled": 40,
        "unlabelled": 60,
        "validation": 10,
        "test": 20,
    } | fields
    recipe = parse_recipe({"name": "r", "seed": seed, "student": "builtin:nano-student", "stages": [stage]})
    directory = tmp_path / f"prepared-{seed}"
    (only,) = recipe.stages
    assert isinstance(only, PrepareStage)
    facts = prepare.run(
        only,
        StageContext(
            recipe=recipe, directory=directory, inputs={}, clock=StageClock(directory), progress=SilentProgress()
        ),
    )
    return Prepared(directory=directory, facts=json.loads(json.dumps(facts)))


def file_source(tmp_path: Path, rows: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"type": "file", "path": str(path), **fields}


def sums(start: int, stop: int) -> list[dict[str, Any]]:
    return [{"prompt": f"{number}+1", "completion": str(number + 1)} for number in range(start, stop)]


def prompts(examples: list[Example]) -> set[str]:
    return {prompt_text(example) for example in examples}


@pytest.mark.parametrize("source", [ARITHMETIC, CHAINS], ids=["arithmetic", "reasoning_gym"])
def test_no_problem_is_in_two_splits_not_even_of_two_seeds(tmp_path: Path, source: dict[str, Any]) -> None:
    if source is CHAINS:
        pytest.importorskip("reasoning_gym")
    runs = [prepared(tmp_path, source, seed=seed, labelled=400, unlabelled=600, test=150) for seed in (0, 1)]
    for run in runs:
        assert run.facts["counts"] == {"labelled": 400, "unlabelled": 600, "validation": 10, "test": 150, "off_task": 0}
        assert prompts(run["labelled"]).isdisjoint(prompts(run["unlabelled"]))
    trained = set().union(*(prompts(run[split]) for run in runs for split in TRAINING))
    held_out = [prompts(run[split]) for run in runs for split in HELD_OUT]
    assert all(trained.isdisjoint(part) for part in held_out)
    assert held_out[:2] == held_out[2:], "held-out problems do not depend on the seed"
    assert held_out[0].isdisjoint(held_out[1])
    assert prompts(runs[0]["labelled"]) != prompts(runs[1]["labelled"])


def test_the_same_recipe_prepares_the_same_bytes(tmp_path: Path) -> None:
    names = []
    for attempt in ("first", "second"):
        run = prepared(tmp_path / attempt, ARITHMETIC)
        names.append(sorted(path.name for path in run.directory.rglob("*.parquet")))
    assert names[0] == names[1]


def test_unlabelled_shards_hold_no_answer_anywhere_in_their_bytes(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"Say word {number}.", "completion": f"SECRETANSWER{number}", "reasoning": f"SECRETTRACE{number}"}
        for number in range(200)
    ]
    run = prepared(tmp_path, file_source(tmp_path, rows, grader="exact"))
    assert len(run["unlabelled"]) == 60
    for path in (run.directory / "examples" / "unlabelled").iterdir():
        pq.write_table(pq.read_table(path), tmp_path / "plain", compression="none", use_dictionary=False)
        assert b"SECRET" not in (tmp_path / "plain").read_bytes()
        assert b"Say word" in (tmp_path / "plain").read_bytes()
    assert "SECRET" not in (run.directory / "dropped.jsonl").read_text()


def test_unlabelled_reasoning_gym_entries_are_gone_with_their_hidden_answers(tmp_path: Path) -> None:
    pytest.importorskip("reasoning_gym")
    run = prepared(tmp_path, CHAINS)
    assert all(json.loads(example.metadata)["answer"] == example.answer for example in run["labelled"])
    assert {(example.answer, example.reasoning, example.metadata) for example in run["unlabelled"]} == {
        (None, None, "")
    }


def test_a_small_file_gives_what_it_has(tmp_path: Path) -> None:
    run = prepared(tmp_path, file_source(tmp_path, sums(0, 100)), labelled=50, unlabelled=500, test=100)
    counts = run.facts["counts"]
    assert counts["labelled"] == 50
    assert counts["labelled"] + counts["unlabelled"] + counts["validation"] + counts["test"] == 100
    assert run.facts["asked"]["unlabelled"] == 500


def test_no_labels_at_all_are_allowed(tmp_path: Path) -> None:
    run = prepared(tmp_path, ARITHMETIC, labelled=0)
    assert (run["labelled"], len(run["unlabelled"])) == ([], 60)


def test_labels_are_found_wherever_answers_are_scarce(tmp_path: Path) -> None:
    rows = sums(0, 100) + [{"prompt": f"{number}+2"} for number in range(2000)]
    run = prepared(tmp_path, file_source(tmp_path, rows), labelled=60, unlabelled=100)
    assert run.facts["answered"] == 60
    assert len(run["unlabelled"]) == 100
    assert all(example.answer is not None for example in run["labelled"] + run["test"] + run["validation"])
    assert "no_answer_to_grade_by" in run.facts["dropped"]


def test_each_dropped_example_has_a_line_with_its_reason(tmp_path: Path) -> None:
    train = [*sums(0, 300), *sums(0, 30), {"prompt": "?!", "completion": "1"}, *sums(1000, 1005)]
    source = file_source(tmp_path, train)
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sums(1000, 1060)))
    run = prepared(
        tmp_path,
        source | {"test_path": str(tmp_path / "test.jsonl")},
        labelled=400,
        unlabelled=0,
        validation=30,
        test=60,
    )
    reasons = run.facts["dropped"]
    assert (reasons["duplicate"], reasons["empty_prompt"], reasons["same_as_evaluation"]) == (30, 1, 5)
    assert sum(reasons.values()) == len(run.dropped())
    assert {row["prompt"] for row in run.dropped() if row["reason"] == "same_as_evaluation"} == {
        f"{number}+1" for number in range(1000, 1005)
    }


def test_what_was_dropped_is_made_up_for(tmp_path: Path) -> None:
    rows = sums(0, 400) * 2
    run = prepared(tmp_path, file_source(tmp_path, rows), labelled=100, unlabelled=100)
    assert run.facts["counts"]["labelled"] == run.facts["counts"]["unlabelled"] == 100


def test_nothing_for_training_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no training examples.*`labelled` and `unlabelled` must not both be 0"):
        prepared(tmp_path, ARITHMETIC, labelled=0, unlabelled=0)


def test_a_file_too_small_for_a_test_split_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no test examples: the source gave none.*or its own `test_path`"):
        prepared(tmp_path, file_source(tmp_path, sums(0, 2)))


def test_a_file_without_answers_cannot_be_tested_on(tmp_path: Path) -> None:
    wanted = r"no test examples: all .* \(\d+ no_answer_to_grade_by\).*`test_path`.* 400 to ±5.*docs/synthesize.md"
    with pytest.raises(DataError, match=wanted):
        prepared(tmp_path, file_source(tmp_path, [{"prompt": f"{number}+1"} for number in range(200)]))


def test_prompts_alone_are_validated_on_without_answers_where_a_test_file_has_some(tmp_path: Path) -> None:
    source = file_source(tmp_path, [{"prompt": f"{number}+1"} for number in range(400)])
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sums(1000, 1040)))
    run = prepared(
        tmp_path,
        source | {"test_path": str(tmp_path / "test.jsonl")},
        labelled=0,
        unlabelled=300,
        validation=10,
        test=30,
    )
    assert {split: len(run[split]) for split in ("labelled", "unlabelled", "validation", "test")} == {
        "labelled": 0, "unlabelled": 300, "validation": 10, "test": 30,
    }  # fmt: skip
    assert run.facts["answered_validation"] == 0
    assert not {example.id for example in run["validation"]} & {example.id for example in run["unlabelled"]}
    assert all(example.answer is not None for example in run["test"])


def test_answers_that_their_grader_cannot_read_are_found_before_any_training(tmp_path: Path) -> None:
    rows = [{"prompt": f"Capital {number}?", "completion": "Paris"} for number in range(200)]
    with pytest.raises(DataError, match=r"'numeric' accepts none of the \d+ reference answers .* 'Paris'.*`exact`"):
        prepared(tmp_path, file_source(tmp_path, rows))


def test_an_unknown_grader_is_found_before_any_training(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="'nummeric' does not exist"):
        prepared(tmp_path, file_source(tmp_path, sums(0, 200), grader="nummeric"))


@pytest.mark.skipif(not GSM8K.is_dir(), reason="the GSM8K files are not beside this checkout")
def test_the_real_gsm8k_prepares(tmp_path: Path) -> None:
    source = {"type": "file", "path": str(GSM8K / "train.jsonl"), "test_path": str(GSM8K / "test.jsonl")}
    run = prepared(tmp_path, source, labelled=2000, unlabelled=100_000, validation=200, test=10_000)
    counts = run.facts["counts"]
    assert (counts["labelled"], counts["validation"], counts["test"]) == (2000, 200, 1319)
    # 7,473 training problems, 5 % of them validation.
    assert 6900 < counts["labelled"] + counts["unlabelled"] < 7200
    assert run.facts["test_answers_rejected_by_their_grader"] == 0
    assert prompts(run["test"]).isdisjoint(prompts(run["labelled"]) | prompts(run["unlabelled"]))
    assert not any("<<" in (example.reasoning or "") for example in run["labelled"])


def test_malformed_records_within_their_share_are_counted_drops(tmp_path: Path) -> None:
    source = file_source(tmp_path, sums(0, 400), max_bad_share=0.01)
    with Path(source["path"]).open("a") as file:
        file.write('{"prompt": "a"\n{"text": "b"}\n')
    run = prepared(tmp_path, source)
    assert run.facts["dropped"]["malformed"] == 2
    errors = [row["error"] for row in run.dropped() if row["reason"] == "malformed"]
    assert ["line 401: not JSON" in errors[0], "line 402: expected" in errors[1]] == [True, True]


def test_a_planted_near_duplicate_and_a_planted_leak_are_found_and_named(tmp_path: Path) -> None:
    """The training file holds one problem twice in other words, and one problem of the test file."""

    def problem(number: int) -> dict[str, str]:
        words = Random(number).choices(WORDS, k=30)
        return {"question": f"{' '.join(words)} {number}?", "answer": f"so\n#### {number}"}

    def write(name: str, rows: list[dict[str, str]]) -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    again = {**problem(130), "question": problem(130)["question"].replace(" ", " also ", 1)}
    train = [problem(number) for number in range(100, 190)] + [again, problem(990)]
    source = {
        "type": "file",
        "path": write("train.jsonl", train),
        "test_path": write("test.jsonl", [problem(number) for number in range(980, 1000)]),
    }
    run = prepared(tmp_path, source, labelled=90, unlabelled=0)
    assert run.facts["dropped"] == {"near_duplicate": 1, "same_as_evaluation": 1}
    rows = {row["reason"]: row for row in run.dropped()}
    by_id = {example.id: example.prompt[-1][1] for split in (*TRAINING, *HELD_OUT) for example in run[split]}
    assert by_id[rows["same_as_evaluation"]["of"]] == problem(990)["question"]
    assert {rows["near_duplicate"]["prompt"], by_id[rows["near_duplicate"]["of"]]} == {
        problem(130)["question"],
        again["question"],
    }
