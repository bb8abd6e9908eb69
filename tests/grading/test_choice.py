"""Letters, however they are given; and words that look like letters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas.grading import can_grade, extract_answer, grade
from eyas.records import Example

LETTERS = st.sampled_from("ABCDEFGHIJ")
FORMS = (
    "{0}", "({0})", "{0}.", "{0})", "[{0}]", "**{0}**", "**({0})**", " {0} \n", "Answer: {0}", "The answer is {0}.",
    "The answer is ({0})", "the correct answer is **{0}**", "**Answer:** {0}", "Answer: **{0}**", "ANSWER: {0}",
    r"so \boxed{{{0}}}", r"\boxed{{\text{{{0}}}}}", r"$\boxed{{({0})}}$", "{0}. Paris", "({0}) Paris", "{0}) Paris",
    "Because of the heat, the answer is option {0}", "I would say option ({0}), not the others",
    "It cannot be A, as A is false, so the final answer is: {0}",
)  # fmt: skip


def example(answer: str) -> Example:
    return Example(key="k", prompt=(("user", "q"),), answer=answer, grader="choice")


@pytest.mark.parametrize("form", FORMS)
@given(letter=LETTERS, other=LETTERS)
def test_every_form_of_a_letter_is_that_letter_and_no_other(form: str, letter: str, other: str) -> None:
    assert extract_answer(form.format(letter), grader="choice") == letter
    assert grade(form.format(letter), example(f"({other})")) == float(letter == other)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("The answer is A. No: the answer is C.", "C"), (r"\boxed{A} at first, but \boxed{D}", "D"),
        ("(A) is cold and (B) is hot, so (B)", "B"), ("I think it is B", "B"), ("b", "B"), ("(c)", "C"),
        ("A good answer is a long one", None), ("I do not know", None), ("The answer is Apple", None), ("", None),
        ("the answer is K", None), ("42", None), ("A cat", None), ("D. H. Lawrence wrote it: the answer is E", "E"),
        ("I'd go for the second", None), ("The answer I found is B", "B"),
        ("B\n\nOption (A) is too cold.", "B"), ("**B**\nbecause (A) is wrong", "B"), ("(A) and (C) are wrong.\nB", "B"),
        ("The correct option is B, since D is too cold", "B"), ("The correct choice: (C). Not D", "C"),
        (r"\boxed{\mathrm{B}}", "B"), (r"\boxed{\textbf{(B)}}", "B"), (r"\boxed{\text{(B) } 12}", "B"),
        (r"\boxed{B) 12}", "B"), (r"\boxed{B. Paris} not C", "B"),
        ("Answer: I believe it is (B)", "B"), ("Answer: I", "I"), ("the answer is b", "B"), ("The answer is (a).", "A"),
        ("the answer is a cat", None), ("the answer is `C`", "C"), ('the answer is "D"', "D"),
        ("Option A is wrong. D", "D"), ("the answer is not A but C", "C"),
        ("B) Paris. Option (A) is wrong", "B"), ("answers are hard", None),
    ],
)  # fmt: skip
def test_the_last_choice_counts_and_words_are_no_letters(text: str, letter: str | None) -> None:
    assert extract_answer(text, grader="choice") == letter


def test_a_reference_without_a_letter_cannot_be_graded_by() -> None:
    assert can_grade(example("B"))
    assert not can_grade(example("Paris"))
    assert grade("B", example("Paris")) is None


@given(st.text())
def test_no_text_breaks_it(text: str) -> None:
    assert grade(text, example("A")) in (0.0, 1.0)
