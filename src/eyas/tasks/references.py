"""A reference's text, split into its reasoning and its final answer."""

from __future__ import annotations

import re

from eyas.errors import DataError

_MARKS = (("<think>", "</think>"), ("[unused16]", "[unused17]"))
"""What opens and closes reasoning in data: that of most models, and openPangu's."""
_CALCULATOR = re.compile(r"<<[^<>]*>>")
"""GSM8K's calculator annotations."""
_GSM8K_ANSWER = re.compile(r"(?<!#)####(?!#)[ \t]*([^\n]*)\Z")
"""In the last line only: elsewhere `####` is a Markdown heading."""


def split_reference(text: str, reasoning: str | None, *, where: str) -> tuple[str, str | None]:
    """The final answer and the reasoning; one that a field of its own gives wins over one inside the text.

    Raises: DataError, starting with `where`, if there is no answer or no telling where it begins.
    """
    text, thought = _parted(text, where=where)
    reasoning = reasoning or thought
    if gsm8k := _GSM8K_ANSWER.search(text):
        if "####" in gsm8k[1]:
            raise DataError(f"{where}: two `####` in one line, so it is not clear which answer is meant. Keep one.")
        reasoning = reasoning or _CALCULATOR.sub("", text[: gsm8k.start()]).strip() or None
        text = gsm8k[1].strip()
    if not text:
        raise DataError(f"{where}: the reference has no final answer (an empty text or nothing after its reasoning).")
    return text, reasoning


def without_reasoning(text: str, *, where: str) -> str:
    """What an assistant's turn says after its reasoning.

    Raises: DataError, as `split_reference`.
    """
    said, _ = _parted(text, where=where)
    if not said:
        raise DataError(f"{where}: nothing after its reasoning. Leave such chats out.")
    return said


def _parted(text: str, *, where: str) -> tuple[str, str | None]:
    """The text after a reasoning block, and the block's; the text as it is where there is no block."""
    for opening, closing in _MARKS:
        before, closed, after = text.partition(closing)
        if closed:
            if opening in after or closing in after:
                raise DataError(f"{where}: `{closing}` closes a first block of reasoning and another one follows.")
            return after.strip(), before.replace(opening, "", 1).strip() or None
        if opening in text:
            raise DataError(f"{where}: `{opening}` opens and never closes, so there is no final answer.")
    return text, None
