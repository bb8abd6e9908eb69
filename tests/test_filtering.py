"""Every reason to drop an example, provoked by the smallest text."""

from __future__ import annotations

from eyas.filtering import Drop, EvaluationSet, filtered
from eyas.records import Example


def example(text: str) -> Example:
    return Example(key=text, prompt=(("user", text),))


LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"


def reasons(*texts: str, evaluation: tuple[str, ...] = ()) -> list[str | None]:
    found = filtered([example(text) for text in texts], evaluation=EvaluationSet(map(example, evaluation)))
    return [drop and drop.reason for _, drop in found]


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
    assert [drop and drop.reason for _, drop in found] == [None] * 3 + ["same_as_evaluation"] + [None] * 8


def test_repeating_a_leak_does_not_make_it_boilerplate() -> None:
    found = reasons(*["so " + LONG] * 12, evaluation=(LONG,))
    assert found == ["shares_13_words_with_evaluation"] + ["duplicate"] * 11


def test_ten_prompts_with_the_same_thirteen_words_are_leaks_and_eleven_are_boilerplate() -> None:
    # Training prompts and the one evaluation prompt count: 9 + 1 = 10 and 10 + 1 = 11.
    for count, reason in ((9, "shares_13_words_with_evaluation"), (10, None)):
        prompts = [f"{LONG} variant{number}" for number in range(count)]
        assert reasons(*prompts, evaluation=(LONG,)) == [reason] * count


PROBLEM = (
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. "
    "How many clips did Natalia sell altogether in April and May?"
)


def test_a_problem_with_one_word_changed_is_a_near_duplicate_and_names_the_first() -> None:
    first, second = example(PROBLEM), example(PROBLEM.replace("friends", "classmates"))
    found = filtered([first, second], evaluation=EvaluationSet([]))
    assert [drop for _, drop in found] == [None, Drop("near_duplicate", of=first.id)]


def test_other_numbers_or_operators_are_another_problem() -> None:
    assert reasons(PROBLEM, PROBLEM.replace("48", "49")) == [None, None]
    chain = "State the final answer to the following arithmetic problem and nothing else, please: 2*{}3+4{}"
    assert reasons(chain.format("(", ")"), chain.format("", "")) == [None, None]
    assert reasons(chain.format("", ""), chain.format("", "").replace("*", "-")) == [None, None]


def test_another_problem_under_the_same_long_instruction_is_no_near_duplicate() -> None:
    words = [f"{a}{b}" for a in ("cat", "dog", "owl") for b in ("nip", "fish", "let", "like")]
    instruction = (
        "Write the following word backwards, letter by letter, and give nothing but the letters in your answer"
    )
    assert reasons(*[f"{instruction}: {word}" for word in words]) == [None] * len(words)


def test_a_leak_names_the_evaluation_example() -> None:
    held_out = example(PROBLEM)
    found = filtered(
        [example(PROBLEM.upper()), example(PROBLEM.replace("friends", "classmates"))],
        evaluation=EvaluationSet([held_out]),
    )
    assert [drop for _, drop in found] == [
        Drop("same_as_evaluation", of=held_out.id),
        Drop("shares_13_words_with_evaluation", of=held_out.id),
    ]
