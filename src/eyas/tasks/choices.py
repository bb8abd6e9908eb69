"""Multiple choice: a list of choices beside the question becomes part of the prompt, and the answer a letter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eyas.errors import DataError
from eyas.grading.choice import LETTERS
from eyas.tasks.texts import text_of

FIELDS = ("choices", "options")
"""MMLU's and MMLU-Pro's names for them; ARC's `choices` are an object of `text` and `label`."""


def choices_of(row: Mapping[str, Any]) -> list[object]:
    """The choices of a record; empty where it has none."""
    for field in FIELDS:
        found = row.get(field)
        if isinstance(found, Mapping):
            found = found.get("text")
        if isinstance(found, list) and len(found) > 1:
            return found
    return []


def listed(choices: list[object], *, where: str) -> str:
    """`A. first`, `B. second`, …: one a line.

    Raises: DataError, starting with `where`, if one is no text or there are more than letters.
    """
    if len(choices) > len(LETTERS):
        raise DataError(f"{where}: {len(choices)} choices, but answers are letters from A to {LETTERS[-1]}.")
    texts = [text_of({"choice": choice}, "choice", where=where) for choice in choices]
    return "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, texts, strict=False))


def letter_of(answer: object, choices: list[object], row: Mapping[str, Any], *, where: str) -> str:
    """The letter of the right choice, which a record gives as its label, its number from 0, or its text.

    Raises: DataError, starting with `where`, if it is none of the choices.
    """
    letters = LETTERS[: len(choices)]
    named = next((row[field].get("label") for field in FIELDS if isinstance(row.get(field), Mapping)), None)
    labels = named if isinstance(named, list) and len(named) == len(choices) else list(letters)
    if isinstance(answer, str):
        for known in (labels, choices):
            if answer.strip() in known:
                return letters[known.index(answer.strip())]
    number = int(answer) if isinstance(answer, int) or (isinstance(answer, str) and answer.strip().isdecimal()) else -1
    if isinstance(answer, bool) or not 0 <= number < len(choices):
        raise DataError(f"{where}: the answer {str(answer)[:40]!r} is none of the {len(choices)} choices.")
    return letters[number]
