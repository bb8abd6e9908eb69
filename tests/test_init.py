"""`eyas init`: what it writes runs, fits the data, and is not written where it could not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from eyas.errors import DataError, EyasError, RecipeError, StorageError
from eyas.init import Data, likely_grader, write_recipe
from eyas.recipe import EvaluateStage, FieldMap, FileSource, PrepareStage, Recipe, SftStage, load_recipe
from eyas.splits import split_of

NANO = {"student": "builtin:nano-student", "teacher": "builtin:nano-teacher"}


def file_of(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def sums(count: int, **answer: Any) -> list[dict[str, Any]]:
    return [{"question": f"{n}+1", **answer} for n in range(count)]


def written(tmp_path: Path, data: str | Path, **told: str) -> Recipe:
    path = tmp_path / "mine.yaml"
    write_recipe(path, **NANO, data=Data(str(data), **told), thinking=None)
    return load_recipe(path)


def prepare_of(recipe: Recipe) -> PrepareStage:
    (stage,) = (stage for stage in recipe.stages if isinstance(stage, PrepareStage))
    return stage


@pytest.mark.parametrize("answer", ["1+1=2\n#### 2", "2"], ids=["reasoned", "fast"])
def test_it_has_every_control_that_the_report_compares_with(tmp_path: Path, answer: str) -> None:
    recipe = written(tmp_path, file_of(tmp_path / "data.jsonl", sums(300, answer=answer)))
    (evaluation,) = (stage for stage in recipe.stages if isinstance(stage, EvaluateStage))
    roles = {"base", "sft", "control", "control_seconds", "seqkd", "distilled", "teacher"}
    assert evaluation.models.keys() == roles
    stages = {stage.name: stage for stage in recipe.stages}
    control = stages[evaluation.models["control_seconds"]]
    assert isinstance(control, SftStage)
    assert (control.match_seconds, control.select, control.sampling) == ("distill", "best", evaluation.sampling)
    assert ("reasoning" in evaluation.modes) == ("reasoning" in control.modes) == ("####" in answer)
    off_task = prepare_of(recipe).off_task
    assert off_task is not None
    assert off_task.type == "words"


def test_the_embedded_task_needs_no_file(tmp_path: Path) -> None:
    prepare = prepare_of(written(tmp_path, "builtin:arithmetic"))
    # Of 10,000 examples 8,500 train, 30 % of them with answers; 10 % are test, and at most 300 validation.
    assert (prepare.labelled, prepare.unlabelled, prepare.validation, prepare.test) == (2550, 5950, 300, 1000)


@pytest.mark.parametrize(
    ("told", "option"),
    [
        ({"test_path": "x.jsonl"}, "--test-data"),
        ({"fields": "prompt=q"}, "--fields"),
        ({"grader": "maths"}, "--grader"),
    ],
)
def test_what_only_a_file_can_be_told_is_refused_for_the_embedded_task(
    tmp_path: Path, told: dict[str, str], option: str
) -> None:
    with pytest.raises(
        RecipeError, match=rf"builtin:arithmetic .*found {option}.*Drop {option}, or give --data a file"
    ):
        written(tmp_path, "builtin:arithmetic", **told)
    assert not (tmp_path / "mine.yaml").exists()


def test_where_few_rows_have_answers_the_splits_are_as_large_as_those_are(tmp_path: Path) -> None:
    rows = sums(200, answer="2") + [{"question": f"{n}+2"} for n in range(2000)]
    prepare = prepare_of(written(tmp_path, file_of(tmp_path / "data.jsonl", rows)))
    splits = [split_of(row["question"]) for row in rows]
    assert (prepare.test, prepare.validation, prepare.labelled) == tuple(
        splits[:200].count(split) for split in ("test", "validation", "train")
    )
    assert prepare.labelled + prepare.unlabelled == splits.count("train")


def test_where_every_row_has_an_answer_most_become_prompts(tmp_path: Path) -> None:
    rows = sums(1000, answer="2")
    prepare = prepare_of(written(tmp_path, file_of(tmp_path / "data.jsonl", rows)))
    train = [split_of(row["question"]) for row in rows].count("train")
    assert (prepare.labelled, prepare.unlabelled) == (round(train * 0.3), train - round(train * 0.3))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (sums(300), r"data.jsonl: 0 of 300 rows have an answer, none of them in the train split"),
        ([*sums(300), {"question": "9", "answer": "9"}], r"1 of 301 rows have an answer, none of them in the"),
    ],
)
def test_without_answers_to_test_on_nothing_is_written(
    tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        written(tmp_path, file_of(tmp_path / "data.jsonl", rows))
    assert not (tmp_path / "mine.yaml").exists()


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("file/mine.yaml", StorageError, r"file is a file, not a directory. Choose another name with --to"),
        ("file/deeper/mine.yaml", StorageError, r"file is a file, not a directory"),
        ("file", RecipeError, "exists already"),
    ],
)
def test_a_place_that_is_taken_is_one_clear_error(
    tmp_path: Path, name: str, error: type[EyasError], message: str
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(error, match=message):
        write_recipe(tmp_path / name, **NANO, data=Data("builtin:arithmetic"), thinking=None)
    assert (tmp_path / "file").read_text() == ""


def test_what_is_written_is_commented_and_ends_with_a_newline(tmp_path: Path) -> None:
    written(tmp_path, "builtin:arithmetic")
    text = (tmp_path / "mine.yaml").read_text(encoding="utf-8")
    assert text.startswith("# Written by `eyas init`")
    assert text.endswith("\n")
    assert isinstance(yaml.safe_load(text)["stages"][1]["training"]["learning_rate"], float)


def test_fields_test_set_and_grader_are_written_as_told(tmp_path: Path) -> None:
    data = file_of(tmp_path / "data ä.jsonl", [{"Q: x": f"{n}+1", "sol": "a word"} for n in range(200)])
    test = file_of(tmp_path / "test.jsonl", [{"Q: x": f"{n}+2", "sol": "a word"} for n in range(30)])
    recipe = written(tmp_path, data, fields="prompt=Q: x, answer=sol", test_path=str(test), grader="exact")
    source = prepare_of(recipe).source
    assert isinstance(source, FileSource)
    assert (source.path, source.test_path, source.grader) == (str(data), str(test), "exact")
    assert source.fields == FieldMap(prompt="Q: x", answer="sol")
    # Nothing of the first file is held out for the test: all but its validation split trains.
    kept = sum(split_of(f"{n}+1") != "validation" for n in range(200))
    assert prepare_of(recipe).labelled + prepare_of(recipe).unlabelled == kept
    assert prepare_of(recipe).test == 30


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"fields": "prompt=question,reply=answer"}, r"--fields.reply: .* Expected for instance --fields prompt="),
        ({"fields": "answer=answer"}, r"--fields.prompt: Field required"),
        ({"fields": "question"}, r"--fields.prompt: Field required"),
        ({"grader": "numbers"}, r"--grader: .*grader 'numbers' does not exist"),
    ],
)
def test_what_is_told_wrongly_is_one_clear_error(tmp_path: Path, told: dict[str, str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        written(tmp_path, file_of(tmp_path / "data.jsonl", sums(9, answer="1")), **told)


def test_an_answer_under_another_name_is_pointed_to(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"The first row's keys: question, gold; .* say so: --fields prompt=…,answer=…"):
        written(tmp_path, file_of(tmp_path / "data.jsonl", sums(300, gold="1")))


@pytest.mark.parametrize(
    ("answers", "grader"),
    [
        (["42", "-7", "$1,234.50", "5 apples a day"], "numeric"),
        (["A", "(B)", "C."], "choice"),
        (["Paris", "the Seine"], "normalised"),
        (["In 1990 he went to Paris and stayed for 7 years there."] * 3, "normalised"),
        (['{"a": 1}', "[1]"], "json"),
        ([r"\\frac{1}{2}", r"$x^2$"], "maths"),
        ([*["1"] * 9, "none"], "numeric"),
    ],
)
def test_the_grader_is_the_one_that_the_answers_look_made_for(answers: list[str], grader: str) -> None:
    assert likely_grader(answers) == grader
