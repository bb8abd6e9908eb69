"""Every reason to drop an example, provoked by the smallest text."""

from __future__ import annotations

from eyas.filtering import EvaluationSet, filtered
from eyas.records import Example


def example(text: str) -> Example:
    return Example(key=text, prompt=(("user", text),))


LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"


def reasons(*texts: str, evaluation: tuple[str, ...] = ()) -> list[str | None]:
    found = filtered(map(example, texts), evaluation=EvaluationSet(map(example, evaluation)))
    return [reason for _, reason in found]


def test_a_prompt_met_before_is_a_duplicate_whatever_its_case_and_spaces() -> None:
    assert reasons("What is  1+1?", "what is 1+1") == [None, "duplicate"]


def test_signs_make_different_problems() -> None:
    assert reasons("1+1", "1-1") == [None, None]


def test_an_evaluation_prompt_is_a_leak() -> None:
    assert reasons("1+1", "2+2", evaluation=("2+2",)) == [None, "same_as_evaluation"]


def test_thirteen_shared_words_are_a_leak_and_twelve_are_not() -> None:
    words = LONG.split()
    assert reasons("so " + " ".join(words[:13]), evaluation=(LONG,)) == ["shares_13_words_with_evaluation"]
    assert reasons("so " + " ".join(words[:12]), evaluation=(LONG,)) == [None]


def test_a_prompt_without_letters_digits_or_signs_is_empty() -> None:
    assert reasons("?!") == ["empty_prompt"]
