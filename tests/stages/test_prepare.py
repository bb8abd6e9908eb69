"""Prepare: what reaches training, what never does, and what it says when there is nothing to give."""

from __future__ import annotations

import html
import json
import re
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pyarrow.parquet as pq
import pytest

from eyas.errors import DataError, RecipeError
from eyas.filtering.reasons import REASONS
from eyas.filtering.text import prompt_text
from eyas.graph import build_graph
from eyas.pipeline import run_recipe
from eyas.recipe import PrepareStage, Recipe, expand, parse_recipe
from eyas.records import Example, Split
from eyas.splits import split_of
from eyas.stages import prepare
from eyas.storage.artifacts import StageClock
from eyas.storage.context import Progress, SilentProgress, StageContext
from eyas.storage.external_sort import SortedExamples
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
    return run(recipe, tmp_path / f"prepared-{seed}")


def run(recipe: Recipe, directory: Path, *, name: str = "prepare", progress: Progress | None = None) -> Prepared:
    (only,) = [stage for stage in expand(recipe) if stage.name == name]
    assert isinstance(only, PrepareStage)
    context = StageContext(
        recipe=recipe,
        directory=directory,
        inputs={},
        clock=StageClock(directory),
        progress=progress or SilentProgress(),
    )
    facts = prepare.run(only, context)
    assert not list(directory.rglob("*.tmp"))
    return Prepared(directory=directory, facts=json.loads(json.dumps(facts)))


def file_source(tmp_path: Path, rows: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    return {"type": "file", "path": write_rows(tmp_path / "data.jsonl", rows), **fields}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def sums(start: int, stop: int) -> list[dict[str, Any]]:
    return [{"prompt": f"{number}+1", "completion": str(number + 1)} for number in range(start, stop)]


def prepared_beside_test_file(
    tmp_path: Path, rows: list[dict[str, Any]], test_rows: list[dict[str, Any]], **counts: int
) -> Prepared:
    test_path = write_rows(tmp_path / "test.jsonl", test_rows)
    return prepared(tmp_path, file_source(tmp_path, rows, test_path=test_path), **counts)


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
    counts = {"labelled": 400, "unlabelled": 0, "validation": 30, "test": 60}
    run = prepared_beside_test_file(tmp_path, train, sums(1000, 1060), **counts)
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
    counts = {"labelled": 0, "unlabelled": 300, "validation": 10, "test": 30}
    train = [{"prompt": f"{number}+1"} for number in range(400)]
    run = prepared_beside_test_file(tmp_path, train, sums(1000, 1040), **counts)
    assert {split: len(run[split]) for split in (*TRAINING, *HELD_OUT)} == counts
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

    again = {**problem(130), "question": problem(130)["question"].replace(" ", " also ", 1)}
    train = [problem(number) for number in range(100, 190)] + [again, problem(990)]
    test = [problem(number) for number in range(980, 1000)]
    run = prepared_beside_test_file(tmp_path, train, test, labelled=90, unlabelled=0)
    assert run.facts["dropped"] == {"near_duplicate": 1, "same_as_evaluation": 1}
    shown = {row["reason"]: row for row in run.facts["dropped_examples"]}
    assert shown["same_as_evaluation"]["of_text"] == problem(990)["question"][:99] + "…"
    assert {shown["near_duplicate"]["text"], shown["near_duplicate"]["of_text"]} == {
        problem(130)["question"][:99] + "…",
        again["question"][:99] + "…",
    }
    rows = {row["reason"]: row for row in run.dropped()}
    by_id = {example.id: example.prompt[-1][1] for split in (*TRAINING, *HELD_OUT) for example in run[split]}
    assert by_id[rows["same_as_evaluation"]["of"]] == problem(990)["question"]
    assert {rows["near_duplicate"]["prompt"], by_id[rows["near_duplicate"]["of"]]} == {
        problem(130)["question"],
        again["question"],
    }


def test_the_report_of_a_run_shows_a_planted_near_duplicate_and_a_planted_leak(tmp_path: Path) -> None:
    train = [question(number, words=20) for number in range(100, 190)]
    again, leak = changed(train[30], 1), question(990, words=20)
    source = {
        "type": "file",
        "path": write_rows(tmp_path / "train.jsonl", [*train, again, leak]),
        "test_path": write_rows(tmp_path / "test.jsonl", [leak, *(question(number) for number in range(980, 986))]),
    }
    stages = [
        {"type": "prepare", "source": source, "labelled": 90, "unlabelled": 0, "validation": 4, "test": 4},
        {"type": "evaluate", "models": {"base": "student"}, "modes": ["fast"],
         "sampling": {"temperature": 0, "max_completion_tokens": 1}, "divergence_prompts": 0},
        {"type": "report"},
    ]  # fmt: skip
    recipe = parse_recipe(
        {"name": "planted", "student": "builtin:nano-student", "stages": stages, "execution": {"trackers": []}}
    )
    run_recipe(recipe, recipe_text="", workspace=tmp_path, progress=lambda *_: nullcontext(SilentProgress()))
    page = (tmp_path / "planted" / "report.html").read_text()
    text = " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())
    assert f"prepare near duplicate {REASONS['near_duplicate']} 1 " in text
    assert f"prepare same as evaluation {REASONS['same_as_evaluation']} 1 " in text
    for planted in (train[30], again, leak):
        assert planted["question"][:90] in text.split("Some of the repetitions")[1]


def question(number: int, *, words: int = 30) -> dict[str, str]:
    made = Random(number).choices(WORDS, k=words)
    return {"question": f"{' '.join(made)} {number}?", "answer": f"so\n#### {number}"}


def changed(row: dict[str, str], at: int) -> dict[str, str]:
    words = row["question"].split()
    return {**row, "question": " ".join([*words[:at], "other", *words[at + 1 :]])}


def contents(made: Prepared) -> tuple[dict[str, bytes], str]:
    shards = {str(path.relative_to(made.directory)): path.read_bytes() for path in made.directory.rglob("*.parquet")}
    return shards, (made.directory / "dropped.jsonl").read_text()


@pytest.mark.parametrize("kind", ["file", "mixture"])
def test_the_result_is_the_same_in_memory_and_spilled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """With 7 examples in memory, and signatures in batches of 10, every part of preparation meets many runs."""
    rows = [question(number) for number in range(300)]
    rows += [changed(row, at=29) for row in rows[:60]] + rows[:40]
    rows += [{"question": row["question"]} for row in map(question, range(600, 700))]
    source: dict[str, Any] = {"type": "file", "path": write_rows(tmp_path / "data.jsonl", rows)}
    if kind == "mixture":
        parts = [{"share": 3, "source": source}, {"share": 1, "source": ARITHMETIC}]
        source = {"type": "mixture", "parts": parts}
    plain = prepared(tmp_path / "memory", source, labelled=120, unlabelled=130)
    monkeypatch.setattr(SortedExamples.__init__, "__kwdefaults__", {"count": None, "held": 7})
    monkeypatch.setattr("eyas.filtering.screen.BATCH", 10)
    spilled = prepared(tmp_path / "spilled", source, labelled=120, unlabelled=130)
    assert contents(plain) == contents(spilled)
    assert plain.facts == spilled.facts
    assert plain.facts["counts"]["labelled"] == 120
    assert plain.facts["dropped"]["near_duplicate"] >= 15


def test_more_is_drawn_for_near_duplicates_too(tmp_path: Path) -> None:
    rows = [question(number) for number in range(400)]
    rows += [changed(row, at=29) for row in rows]
    run = prepared(tmp_path, file_source(tmp_path, rows), labelled=100, unlabelled=100)
    assert run.facts["counts"]["labelled"] == run.facts["counts"]["unlabelled"] == 100


def test_a_leak_into_another_prepare_stage_is_found(tmp_path: Path) -> None:
    """The second stage trains on a test, a validation and an off-task prompt of the first."""
    ours = [question(number) for number in range(200)]
    source = {"type": "file", "path": write_rows(tmp_path / "ours.jsonl", ours)}
    off_task = {"type": "file", "path": write_rows(tmp_path / "off.jsonl", [question(n) for n in range(900, 1100)])}
    first = {"type": "prepare", "name": "first", "source": source, "off_task": off_task, "labelled": 100}
    own = {"labelled": 300, "validation": 10, "test": 20}
    stages: list[dict[str, Any]] = [first | own]
    recipe = {"name": "r", "student": "builtin:nano-student", "stages": stages}
    alone = run(parse_recipe(recipe), tmp_path / "alone", name="first")
    by_split = {split: alone[split][0] for split in ("test", "validation", "off_task")}
    leaked = [{"question": example.prompt[0][1], "answer": "#### 1"} for example in by_split.values()]
    theirs = [*(question(number) for number in range(2000, 2200)), *leaked]
    test = write_rows(tmp_path / "test.jsonl", [question(number) for number in range(3000, 3030)])
    other = {"type": "file", "path": write_rows(tmp_path / "theirs.jsonl", theirs), "test_path": test}
    stages.append({"type": "prepare", "name": "second", "source": other} | own)
    made = run(parse_recipe(recipe), tmp_path / "both", name="second")
    found = {row["prompt"]: (row["reason"], row["of"]) for row in made.dropped() if row["split"] == "train"}
    for row, example in zip(leaked, by_split.values(), strict=True):
        if split_of(row["question"]) != "validation":
            assert found[row["question"]] == ("same_as_evaluation", example.id)
    assert sum(reason == "same_as_evaluation" for reason, _ in found.values()) >= 2
    assert made.facts["held_out_elsewhere"] == sum(alone.facts["counts"][split] for split in by_split)


def test_a_fingerprint_knows_the_evaluation_sets_of_other_stages_and_the_exclusion_file(tmp_path: Path) -> None:
    def fingerprint() -> str:
        recipe = {"name": "r", "student": "builtin:nano-student", "stages": [first, second]}
        return next(
            node.fingerprint for node in build_graph(parse_recipe(recipe), workspace=tmp_path) if node.name == "a"
        )

    path = tmp_path / "theirs.jsonl"
    other = {"type": "file", "path": write_rows(path, [question(1)])}
    first: dict[str, Any] = {"type": "prepare", "name": "a", "source": ARITHMETIC}
    second = {"type": "prepare", "name": "b", "source": other}
    before = fingerprint()
    second["labelled"] = 7
    assert fingerprint() == before, "what another stage trains on is no matter"
    write_rows(path, [question(2)])
    changed_content = fingerprint()
    assert changed_content != before
    (tmp_path / "out.txt").write_text("0123456789abcdef\n")
    first["exclude"] = str(tmp_path / "out.txt")
    excluded = fingerprint()
    (tmp_path / "moved.txt").write_text("0123456789abcdef\n")
    first["exclude"] = str(tmp_path / "moved.txt")
    assert changed_content != excluded == fingerprint()
    (tmp_path / "moved.txt").write_text("0123456789abcdee\n")
    assert fingerprint() != excluded
    first["exclude"] = str(tmp_path / "gone.txt")
    with pytest.raises(DataError, match=r"gone.txt: the `exclude` file cannot be read"):
        fingerprint()


def test_excluded_examples_are_left_out_of_every_split_and_made_up_for_in_training(tmp_path: Path) -> None:
    source = file_source(tmp_path, sums(0, 400))
    before = prepared(tmp_path / "before", source)
    out = [before[split][0] for split in (*TRAINING, *HELD_OUT)]
    (tmp_path / "out.txt").write_text("\n".join([*(example.id for example in out), "", "00000000000000ff"]))
    after = prepared(tmp_path / "after", source, exclude=str(tmp_path / "out.txt"))
    fewer = {"labelled": 0, "unlabelled": 0, "validation": 1, "test": 1, "off_task": 0}
    assert after.facts["counts"] == {split: count - fewer[split] for split, count in before.facts["counts"].items()}
    kept = {example.id for split in (*TRAINING, *HELD_OUT) for example in after[split]}
    assert kept.isdisjoint(example.id for example in out)
    assert {row["id"] for row in after.dropped() if row["reason"] == "excluded"} == {example.id for example in out}
    assert (after.facts["dropped"]["excluded"], after.facts["excluded_ids_not_drawn"]) == (4, 1)


def test_an_excluded_id_of_an_example_that_was_not_drawn_counts_as_such(tmp_path: Path) -> None:
    source = file_source(tmp_path, sums(0, 400))
    whole = prepared(tmp_path / "whole", source, labelled=400, unlabelled=0)
    part = prepared(tmp_path / "part", source, labelled=20, unlabelled=0)
    drawn, left = part["labelled"][0], next(e for e in whole["labelled"] if e not in part["labelled"])
    (tmp_path / "out.txt").write_text(f"{drawn.id}\n{left.id}\n")
    made = prepared(tmp_path / "made", source, labelled=20, unlabelled=0, exclude=str(tmp_path / "out.txt"))
    assert (made.facts["dropped"]["excluded"], made.facts["excluded_ids_not_drawn"]) == (1, 1)


def test_an_edited_dropped_file_excludes_what_it_lists_but_not_what_stayed(tmp_path: Path) -> None:
    source = file_source(tmp_path, [*sums(0, 300), *sums(0, 300)], max_bad_share=0.1)
    with Path(source["path"]).open("a") as file:
        file.write('{"prompt": 1}\n')
    before = prepared(tmp_path / "before", source, labelled=1000)
    assert before.facts["dropped"]["duplicate"] > 200
    extra = before["labelled"][0]
    text = (before.directory / "dropped.jsonl").read_text() + json.dumps({"id": extra.id, "why": "wrong answer"})
    (tmp_path / "out.jsonl").write_text(text)
    after = prepared(tmp_path / "after", source, labelled=1000, exclude=str(tmp_path / "out.jsonl"))
    assert {e.id for e in before["labelled"]} - {e.id for e in after["labelled"]} == {extra.id}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no example"),
        ("0123456789abcdef\nnot-an-id\n", r"line 2: expected an example id.*found 'not-an-id'"),
        ('{"key": "0123456789abcdef"}', "line 1: expected an example id"),
        ('{"id": "0123', "line 1: not JSON"),
    ],
)
def test_an_exclusion_file_without_ids_is_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "out.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        prepared(tmp_path, ARITHMETIC, exclude=str(tmp_path / "out.txt"))


def test_lengths_are_the_recipes(tmp_path: Path) -> None:
    run = prepared(tmp_path, file_source(tmp_path, sums(0, 1500)), min_characters=4, max_characters=5)
    assert all(4 <= len(e.prompt[0][1]) <= 5 for split in (*TRAINING, *HELD_OUT) for e in run[split])
    assert run.facts["dropped"]["too_long"] > 0
    with pytest.raises(RecipeError, match="`min_characters: 9` is above `max_characters: 8`"):
        prepared(tmp_path, ARITHMETIC, min_characters=9, max_characters=8)


def test_a_killed_preparations_scratch_is_no_part_of_the_artifact(tmp_path: Path) -> None:
    leftover = tmp_path / "prepared-0" / ".scratch.tmp" / "training-0"
    leftover.mkdir(parents=True)
    (leftover / "00001.run").write_text("cut")
    run = prepared(tmp_path, ARITHMETIC)
    assert not leftover.exists()
    assert {path.parts[-2] for path in run.directory.rglob("*.parquet")} == {*TRAINING, *HELD_OUT}


class Watched:
    """A progress bar that keeps what it was told."""

    def __init__(self) -> None:
        self.phases: list[tuple[str, int, int]] = []

    def start(self, total: int, *, unit: str, done: int = 0) -> None:
        self.phases.append((unit, total, 0))

    def advance(self, amount: int = 1, *, note: str = "") -> None:
        unit, total, done = self.phases[-1]
        self.phases[-1] = unit, total, done + amount


def test_the_bar_goes_through_every_pass_to_its_end(tmp_path: Path) -> None:
    stage = {"type": "prepare", "source": file_source(tmp_path, sums(0, 3000)), "labelled": 4000, "test": 20}
    watched = Watched()
    recipe = parse_recipe({"name": "r", "student": "builtin:nano-student", "stages": [stage]})
    made = run(recipe, tmp_path / "out", progress=watched)
    kept = made.facts["counts"]["labelled"]
    assert watched.phases == [
        ("held-out examples", 220, 220),
        ("examples read", 3000, 3000),
        ("examples compared", kept, kept),
        ("bands compared", 32, 32),
        ("examples sorted", kept, kept),
        ("examples written", kept, kept),
    ]
