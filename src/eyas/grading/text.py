"""Answers that are a number or a short text."""

from __future__ import annotations

import re
import string
import unicodedata
from decimal import Decimal

from eyas.records import Example

_NUMBER = re.compile(
    r"(?:(?<![\w)])[-−])?(?:\$?(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?|(?<![\d.])\.\d+)"
    r"(?:[eE][-+−]?\d{1,3}(?![\w.]))?"
)
"""A minus after a letter, a digit or a bracket is a dash or an operator (`10-12`); commas only part thousands; an
exponent beyond three digits is no number that a float could hold."""
_LATEX_COMMA = re.compile(r"(?<=\d)(?:\{,\}|,?\\[,!:;]|,?\\ )(?=\d{3}(?!\d))")
r"""What LaTeX writes between thousands: 1{,}000, 10,\!000, 1\,000."""


_ARTICLE = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def extract_numeric(text: str) -> str | None:
    """The last number of the text in plain decimal notation: "so $1,200.50" -> "1200.5", "1.5e3" -> "1500";
    None if there is none.

    Not symbolic mathematics: fractions and units are not understood.
    """
    found = _NUMBER.findall(_LATEX_COMMA.sub(",", text))
    if not found:
        return None
    number = Decimal(found[-1].replace("−", "-").replace("$", "").replace(",", ""))
    plain = f"{number:f}"
    plain = plain.rstrip("0").rstrip(".") if "." in plain else plain
    return "0" if plain in ("-0", "") else plain


def extract_exact(text: str) -> str | None:
    """The text with runs of white space made one space and letters composed (NFC); None if nothing is left."""
    return " ".join(unicodedata.normalize("NFC", text).split()) or None


def grade_numeric(text: str, example: Example) -> float:
    """1.0 if the last number of the text equals the reference's last number."""
    found = extract_numeric(text)
    return float(found is not None and found == extract_numeric(example.answer or ""))


def grade_exact(text: str, example: Example) -> float:
    """1.0 if the texts are equal up to white space and case."""
    found, wanted = extract_exact(text), extract_exact(example.answer or "")
    return float(found is not None and wanted is not None and found.casefold() == wanted.casefold())


def extract_normalised(text: str) -> str | None:
    """Lower case without ASCII punctuation, English articles and surplus white space; None if nothing is left.

    Source: `normalize_answer` of SQuAD's official evaluation, https://rajpurkar.github.io/SQuAD-explorer/
    (evaluate-v2.0.py).
    """
    return extract_exact(_ARTICLE.sub(" ", text.lower().translate(_NO_PUNCTUATION)))


def grade_normalised(text: str, example: Example) -> float:
    """1.0 if the texts are equal once normalised (SQuAD's exact match, with one reference)."""
    found = extract_normalised(text)
    return float(found is not None and found == extract_normalised(example.answer or ""))
