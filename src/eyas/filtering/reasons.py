"""Every reason to leave an example out, with the sentence that docs/preparation.md and the report give for it."""

from __future__ import annotations

from collections.abc import Mapping

from eyas.filtering import leaks, near

REASONS: Mapping[str, str] = {
    "malformed": "a record that is no example, where the source's max_bad_share lets it pass",
    "excluded": "its id is in the recipe's exclude file",
    "empty_prompt": "a prompt without any letter, digit or sign",
    "too_short": "a prompt of fewer characters than min_characters",
    "too_long": "a prompt of more characters than max_characters",
    "garbage": "broken characters, or a long prompt that is mostly one character, one line or three words repeated",
    "language": "a prompt surely in a language that languages does not list",
    "duplicate": "the same prompt as an earlier one up to case, white space and punctuation, or the same problem",
    "same_as_evaluation": "the same prompt as a held-out one, of any prepare stage of the recipe",
    "shares_13_words_with_evaluation": f"{leaks.NGRAM} words in a row are those of a held-out prompt",
    "near_evaluation": (
        f"at least {near.THRESHOLD:.0%} of its three-word runs, and all numbers and operators, are a held-out prompt's"
    ),
    "near_duplicate": (
        f"at least {near.THRESHOLD:.0%} of its three-word runs, and all numbers and operators, are an earlier prompt's"
    ),
    "no_answer_to_grade_by": "a held-out example without an answer",
}
LEAKS = ("same_as_evaluation", "shares_13_words_with_evaluation", "near_evaluation")
CODES: Mapping[str, int] = {reason: code for code, reason in enumerate(REASONS, start=1)}
"""Reason -> its number in arrays, where 0 is kept."""
NAMES = ("", *REASONS)
