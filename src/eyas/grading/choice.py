"""Multiple choice: one letter from A to J."""

from __future__ import annotations

import re

from eyas.records import Example

LETTERS = "ABCDEFGHIJ"
"""What the patterns below know."""
_OPEN = r"[*\s`$\"'“‘]*(?:\\(?:text|textbf|mathrm|mathbf)\{)?[(\[*]*"
_LETTER = (
    rf"{_OPEN}(?P<letter>(?!I\s+[a-z])[A-J](?![A-Za-z'’])|[B-HJb-hj](?=[*`\"”’).:\]]*\s*(?:\n|$))|(?<=\()[a-j](?=\)))"
)
"""Lower case only in brackets or at the end of its line, and not the words a and i; not "I think"."""
_HEAD = r"\b(?i:answer|correct\s+(?:option|choice)|(?:option|choice)(?=[*\s]+is\b))"
_STATED = re.compile(
    rf"{_HEAD}[*\s]*(?:(?i:(?:is|would be|should be)\b)[*\s]*:?|[:=]|(?!\s*[*(\[]*I\b))"
    rf"[*\s]*(?:(?i:option|choice)\s+)?{_LETTER}"
)
"""Not "the answer I found"."""
_BOXED = re.compile(r"\\boxed\{\s*(?:\\(?:text|textbf|mathrm|mathbf)\{)?\s*\(?(?P<letter>[A-J])(?:\)?\s*\}|\)|[.:]\s)")
_ALONE = re.compile(r"\s*[*(\[]*(?P<letter>[A-Ja-j])[*)\].:]*\s*")
_LEADING = re.compile(r"\s*(?:\**(?P<letter>[A-J])\**[).:]\**\s|[*(\[]*(?P<line>[A-J])[*)\].:]*[ \t]*\n)")
_LINE = re.compile(r"^[ \t]*[*(\[]*(?P<letter>[A-J])[*)\].:]*[ \t]*$", re.MULTILINE)
_BRACKETED = re.compile(r"\((?P<letter>[A-J])\)")
_WORD = re.compile(r"(?<![A-Za-z'’.])(?P<letter>[B-HJ])(?![A-Za-z'’])")


def extract_choice(text: str) -> str | None:
    """The letter that the text chooses, upper case; None where it chooses none.

    In this order: the last `\\boxed{B}`; the last "answer is B", "answer: (B)", "correct option is B"; a text that is
    the letter alone; one that starts with it ("B) Paris", a first line "B"); the last line that is a letter alone; the
    last "(B)"; the last letter that stands alone, but not A and I, which are words.
    """
    for pattern in (_BOXED, _STATED):
        if found := list(pattern.finditer(text)):
            return found[-1]["letter"].upper()
    if alone := _ALONE.fullmatch(text):
        return alone["letter"].upper()
    if leading := _LEADING.match(text):
        return leading["letter"] or leading["line"]
    for pattern in (_LINE, _BRACKETED, _WORD):
        if found := list(pattern.finditer(text)):
            return found[-1]["letter"]
    return None


def grade_choice(text: str, example: Example) -> float:
    """1.0 if the text chooses the reference's letter."""
    found = extract_choice(text)
    return float(found is not None and found == extract_choice(example.answer or ""))
