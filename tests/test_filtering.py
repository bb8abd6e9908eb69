"""Every reason to drop an example, provoked by the smallest text."""

from __future__ import annotations

from eyas.filtering import EvaluationSet, filtered
from eyas.records import Example


def example(text: str) -> Example:
    return Example(key=text, prompt=(("user", text),))


LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"


def reasons(*texts: str, evaluation: tuple[str, ...] = ()) -> list[str | None]:
    found = filtered([example(text) for text in texts], evaluation=EvaluationSet(map(example, evaluation)))
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


def test_instructions_that_every_prompt_shares_are_not_a_leak() -> None:
    prompts = [f"{LONG}: what is {number} plus {number}?" for number in range(30)]
    assert reasons(*prompts[:20], evaluation=tuple(prompts[20:])) == [None] * 20


def test_a_shared_system_prompt_is_not_a_leak_but_the_same_question_is() -> None:
    def chat(question: str) -> Example:
        return Example(key=question, prompt=(("system", LONG), ("user", question)))

    training = [chat(f"{number} + 1?") for number in range(12)]
    found = filtered(training, evaluation=EvaluationSet([chat("3 + 1?"), chat("99 + 1?")]))
    assert [reason for _, reason in found] == [None] * 3 + ["same_as_evaluation"] + [None] * 8


def test_repeating_a_leak_does_not_make_it_boilerplate() -> None:
    found = reasons(*["so " + LONG] * 12, evaluation=(LONG,))
    assert found == ["shares_13_words_with_evaluation"] + ["duplicate"] * 11


def test_ten_prompts_with_the_same_thirteen_words_are_leaks_and_eleven_are_boilerplate() -> None:
    # Training prompts and the one evaluation prompt count: 9 + 1 = 10 and 10 + 1 = 11.
    for count, reason in ((9, "shares_13_words_with_evaluation"), (10, None)):
        prompts = [f"{LONG} variant{number}" for number in range(count)]
        assert reasons(*prompts, evaluation=(LONG,)) == [reason] * count
