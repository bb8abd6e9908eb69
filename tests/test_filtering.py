"""Every reason to drop an example, provoked by the smallest text."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest

from eyas.errors import MissingExtra, RecipeError
from eyas.filtering import Drop, EvaluationSet, Rules, filtered
from eyas.filtering.garbage import is_garbage
from eyas.filtering.language import check_languages
from eyas.filtering.reasons import REASONS
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
    tail = " and then some words that nobody else has written down here before today"
    assert reasons("so " + " ".join(words[:12]) + tail, evaluation=(LONG,)) == [None]


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


def test_one_word_of_twenty_five_in_the_middle_leaves_no_thirteen_in_a_row_but_is_a_leak_all_the_same() -> None:
    words = Random(4).sample([f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "lmnrs"], 25)
    held_out, found = example(" ".join(words)), example(" ".join([*words[:12], "another", *words[13:]]))
    ((_, drop),) = filtered([found], evaluation=EvaluationSet([held_out]))
    # 23 runs of three words each, three of them broken: 20 / 26 = 0.77.
    assert drop == Drop("near_evaluation", of=held_out.id)
    number = example(held_out.key + " 7")
    assert [drop and drop.reason for _, drop in filtered([found], evaluation=EvaluationSet([number]))] == [None]


ORCHARD = "小明的果园里种了一些苹果树和梨树，苹果树比梨树多48棵，梨树是苹果树的三分之一，果园里一共有多少棵树？"


def test_chinese_text_is_compared_by_its_characters() -> None:
    found = example(ORCHARD.replace("小明", "小红"))
    assert reasons(ORCHARD, found.key) == [None, "near_duplicate"]
    assert reasons(ORCHARD, ORCHARD.replace("48", "36")) == [None, None]
    cut = "请看下面的问题。" + ORCHARD[:20]
    assert reasons(cut, evaluation=(ORCHARD,)) == ["shares_13_words_with_evaluation"]
    assert reasons("请看下面的问题。" + ORCHARD[:12], evaluation=(ORCHARD,)) == [None]


def test_a_leak_that_a_large_set_holds_a_dozen_times_is_still_one() -> None:
    leaks = [example(f"{LONG} number{number}") for number in range(12)]
    rest = [example(f"{number} + 1") for number in range(30_000)]
    found = filtered([*rest[:1], *leaks, *rest[1:]], evaluation=EvaluationSet([example(LONG)]))
    assert sum(drop is not None and drop.reason == "shares_13_words_with_evaluation" for _, drop in found) == 12
    assert sum(drop is None for _, drop in found) == 30_000


def test_the_same_problem_in_another_prompt_is_a_duplicate() -> None:
    first, second = Example(key="k", prompt=(("user", "one"),)), Example(key="k", prompt=(("user", "two"),))
    assert [drop for _, drop in filtered([first, second], evaluation=EvaluationSet([]))] == [
        None,
        Drop("duplicate", of=first.id),
    ]


def test_what_is_dropped_for_itself_is_no_earlier_prompt() -> None:
    first, second = example("Is it so?"), example("is it so?")
    rules = Rules(excluded=np.array(sorted([int(first.id, 16), 5]), np.uint64))
    found = filtered([first, second, first], evaluation=EvaluationSet([]), rules=rules)
    assert [drop for _, drop in found] == [Drop("excluded"), None, Drop("excluded")]


def test_length_is_that_of_the_prompt_as_it_is_written() -> None:
    rules = Rules(min_characters=3, max_characters=5)
    found = filtered([example(text) for text in ("ab", "abc", "a b?!", "a b?!.")], evaluation=EvaluationSet([]),
                     rules=rules)  # fmt: skip
    assert [drop and drop.reason for _, drop in found] == ["too_short", None, None, "too_long"]


CODE = Path(__file__).read_text()
GRID = "Continue the pattern.\n" + "\n".join(["0 0 0 0 0 0 0 0 0 0"] * 30) + "\n0 1 0"
LETTERS = "Where does the path go?\n" + "\n".join(["W W W W W W W . W W"] * 30)
TABLE = "| a | b |\n" + "|---|---|\n" * 20
BRACES = "fix this\n" + "    }\n" * 60 + "    return value;\n" * 3


@pytest.mark.parametrize(
    "text",
    [
        "27-35+48",
        "1" * 150,
        "what is 1/3? " * 5,
        CODE,
        GRID,
        LETTERS,
        TABLE,
        BRACES,
        "a\ufffdb broken once " * 4,
        "求解：x+1=2",
    ],
)
def test_arithmetic_code_and_grids_are_no_garbage(text: str) -> None:
    assert not is_garbage(text)


@pytest.mark.parametrize(
    "text",
    [
        "\ufffd" * 5 + "abc",
        "PK\x03\x04\x14\x00\x00\x00 abc",
        "why " + "a" * 300,
        "Buy these shoes now!\n" * 30 + "What is 1 + 1?",
        "buy these shoes " * 60 + "what is 1 + 1?",
    ],
)
def test_broken_bytes_and_mere_repetition_are_garbage(text: str) -> None:
    assert is_garbage(text)
    assert reasons(text) == ["garbage"]


ENGLISH = "What is the capital of France, and how many people live there today?"
GERMAN = "Wie viele Einwohner hat die Hauptstadt von Frankreich heute ungefähr?"
CHINESE = "法国的首都是哪里？今天那里大约有多少人居住？请用一句话简要回答这个问题，并说明理由。"


def test_only_prompts_surely_in_another_language_are_dropped() -> None:
    pytest.importorskip("py3langid")
    texts = [ENGLISH, GERMAN, CHINESE, "Wie geht es?", "27-35+48", CODE[:2000]]
    found = filtered(
        [example(text) for text in texts], evaluation=EvaluationSet([]), rules=Rules(languages=("en", "zh"))
    )
    assert [drop and drop.reason for _, drop in found] == [None, "language", None, None, None, None]


def test_an_unknown_language_is_an_error_that_lists_the_known_ones() -> None:
    pytest.importorskip("py3langid")
    check_languages(["en", "zh"])
    with pytest.raises(RecipeError, match=r"'english' is not known; expected ISO 639 codes among .*\ben\b.*\bzh\b"):
        check_languages(["en", "english"])


def test_without_the_library_languages_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "py3langid.langid", None)
    from eyas.filtering import language

    language._identifier.cache_clear()
    check_languages([])
    with pytest.raises(MissingExtra, match=r"'py3langid' \(extra eyas\[language\]\)"):
        check_languages(["en"])


def test_the_documentation_names_every_reason_in_the_same_words_and_order() -> None:
    text = (Path(__file__).parents[1] / "docs" / "preparation.md").read_text()
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| `")]
    assert {reason.strip(" `"): sentence.strip() for reason, sentence in rows} == dict(REASONS)
    assert [reason.strip(" `") for reason, _ in rows] == list(REASONS)
