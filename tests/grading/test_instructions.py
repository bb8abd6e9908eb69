"""Verifiable instructions: the package's verdicts, all or nothing, from IFEval's own columns."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from eyas.errors import GradingError, MissingExtra
from eyas.grading import can_grade, grade, instructions
from eyas.records import Example
from eyas.tasks.records import example_of

nltk = pytest.importorskip("nltk")
pytest.importorskip("if_verifiable")
COMMA: tuple[str, dict[str, Any]] = ("punctuation:no_comma", {})
WORDS = ("length_constraints:number_words", {"num_words": 5, "relation": "at least"})
CASE: tuple[str, dict[str, Any]] = ("change_case:english_lowercase", {})


def example(*constraints: tuple[str, dict[str, Any]]) -> Example:
    names, settings = [name for name, _ in constraints], [item for _, item in constraints]
    row = {"key": 1000, "prompt": "Write about rain.", "instruction_id_list": names, "kwargs": settings}
    return example_of(row, grader="instructions", where="line 1")


@pytest.mark.parametrize(
    ("text", "constraints", "verdict"),
    [
        ("rain falls on the whole town", [COMMA, WORDS], 1), ("rain, falling on the whole town", [COMMA, WORDS], 0),
        ("rain falls", [COMMA, WORDS], 0), ("rain falls", [COMMA], 1), ("", [COMMA], 0),
        ("the rain in spain falls mainly", [CASE], 1), ("The rain in Spain falls mainly", [CASE], 0),
        ("I like sun", [("keywords:existence", {"keywords": ["rain"], "num_words": None})], 0),
        ("I like rain", [("keywords:existence", {"keywords": ["rain"], "num_words": None})], 1),
        ("I like rain", [("keywords:forbidden_words", {"forbidden_words": ["rain"]})], 0),
        ("{\"rain\": 1}", [("detectable_format:json_format", {})], 1),
        ("rain", [("detectable_format:json_format", {})], 0),
        ("[where] it rains [when]", [("detectable_content:number_placeholders", {"num_placeholders": 2})], 1),
        ("[where] it rains", [("detectable_content:number_placeholders", {"num_placeholders": 2})], 0),
        ('"rain"', [("startend:quotation", {})], 1), ("rain", [("startend:quotation", {})], 0),
        ("it rains. The end.", [("startend:end_checker", {"end_phrase": "The end."})], 1),
        ("* one\n* two", [("detectable_format:number_bullet_lists", {"num_bullets": 2})], 1),
        ("* one", [("detectable_format:number_bullet_lists", {"num_bullets": 2})], 0),
    ],
)  # fmt: skip
def test_every_instruction_must_be_followed(text: str, constraints: list[Any], verdict: int) -> None:
    assert grade(text, example(*constraints)) == verdict


def test_without_constraints_that_are_known_there_is_no_verdict() -> None:
    assert can_grade(example(COMMA))
    for broken in (example(), example(COMMA, ("no:such", {}))):
        assert grade("rain", broken) is None
    for metadata in ("", "[]", "{}", json.dumps({"instruction_id_list": ["punctuation:no_comma"], "kwargs": []})):
        assert not can_grade(Example(key="k", prompt=(("user", "q"),), grader="instructions", metadata=metadata))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("length_constraints:number_words", {"num_words": 5, "relation": None}),
        ("length_constraints:number_words", {"relation": "at least"}),
        ("length_constraints:number_words", {"num_words": 5, "relation": "roughly"}),
        ("length_constraints:number_words", {"num_words": -5, "relation": "at least"}),
        ("keywords:letter_frequency", {"letter": "!", "let_frequency": 1, "let_relation": "at least"}),
        ("keywords:existence", {}), ("keywords:existence", {"keyword": "rain"}), ("combination:repeat_prompt", {}),
        ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 2, "nth_paragraph": 3, "first_word": "a"}),
        ("detectable_content:postscript", {}), ("language:response_language", {}), ("startend:end_checker", {}),
    ],
)  # fmt: skip
def test_settings_that_leave_something_to_chance_give_no_verdict(name: str, settings: dict[str, Any]) -> None:
    assert grade("rain", example((name, settings))) is None


def test_the_language_of_a_text_is_the_same_every_time() -> None:
    english = example(("language:response_language", {"language": "en"}))
    undecided = ["Hotel Taxi Restaurant", "no", "der Film was in time"]
    assert all(len({grade(text, english) for _ in range(8)}) == 1 for text in undecided)


SENTENCES: tuple[str, dict[str, Any]] = (
    "length_constraints:number_sentences", {"num_sentences": 2, "relation": "at least"}
)  # fmt: skip
CAPITALS: tuple[str, dict[str, Any]] = (
    "change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "at least"}
)  # fmt: skip


@pytest.mark.usefixtures("sentence_model")
def test_sentences_are_counted_by_nltks_model() -> None:
    assert grade("It rains. We stay.", example(SENTENCES)) == 1.0
    assert grade("Mr. Smith stays.", example(SENTENCES)) == 0.0
    assert grade("It RAINS in the USA.", example(CAPITALS)) == 1.0
    assert grade("It rains in the USA.", example(CAPITALS)) == 0.0


@pytest.mark.parametrize("constraint", [SENTENCES, CAPITALS])
def test_without_nltks_model_one_error_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, constraint: tuple[str, dict[str, Any]]
) -> None:
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    instructions._can_check.cache_clear()
    for ask in (can_grade, lambda row: grade("It rains.", row)):
        with pytest.raises(GradingError, match=rf"{constraint[0]}, .*nltk.downloader punkt_tab.*NLTK_DATA"):
            ask(example(COMMA, constraint))
    assert grade("It rains.", example(COMMA)) == 1.0


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "if_verifiable.common", None)
    instructions.load_if_verifiable.cache_clear()
    instructions._can_check.cache_clear()
    with pytest.raises(MissingExtra, match="instructions"):
        grade("rain", example(COMMA))
