"""Multiple choice: one letter from A to J."""

from __future__ import annotations

import re

from eyas.records import Example

_LETTER = r"[*\s]*(?:(?i:option|choice)\s+)?[(\[*]*(?P<letter>[A-J])(?![A-Za-z'’])"
_STATED = re.compile(
    rf"(?i:\banswer)[*\s]*(?:(?i:(?:is|would be|should be)\b)[*\s]*:?|[:=]|(?!\s*[*(\[]*I\b)){_LETTER}"
)
"""Not "the answer I found"."""
_BOXED = re.compile(r"\\boxed\{\s*(?:\\text(?:bf)?\{)?\s*\(?(?P<letter>[A-J])\)?\s*\}")
_ALONE = re.compile(r"\s*[*(\[]*(?P<letter>[A-Ja-j])[*)\].:]*\s*")
_LEADING = re.compile(r"\s*\**(?P<letter>[A-J])\**[).:]\**\s")
_BRACKETED = re.compile(r"\((?P<letter>[A-J])\)")
_WORD = re.compile(r"(?<![A-Za-z'’.])(?P<letter>[B-HJ])(?![A-Za-z'’])")


def extract_choice(text: str) -> str | None:
    """The letter that the text chooses, upper case; None where it chooses none.

    In this order: the last `\\boxed{B}`; the last "answer is B", "answer: (B)", "answer is option B"; a text that is
    the letter alone; one that starts with it ("B) Paris", "B. Paris"); the last "(B)"; the last letter that stands
    alone, but not A and I, which are words.
    """
    for pattern in (_BOXED, _STATED):
        if found := list(pattern.finditer(text)):
            return found[-1]["letter"]
    if alone := _ALONE.fullmatch(text):
        return alone["letter"].upper()
    if leading := _LEADING.match(text):
        return leading["letter"]
    for pattern in (_BRACKETED, _WORD):
        if found := list(pattern.finditer(text)):
            return found[-1]["letter"]
    return None


def grade_choice(text: str, example: Example) -> float:
    """1.0 if the text chooses the reference's letter."""
    found = extract_choice(text)
    return float(found is not None and found == extract_choice(example.answer or ""))
