"""Symbolic mathematics, by the math-verify package (extra `maths`)."""

from __future__ import annotations

import logging
import re
from functools import cache
from typing import Any

from eyas.errors import MissingExtra
from eyas.grading.text import extract_exact
from eyas.records import Example

_MARKED = re.compile(r"\$|\\boxed|\\\(|\\\[|\\begin")
_PLAIN = re.compile(r"[^A-Za-z\\^_{}()\[\]]*")
"""A number with its separators, which reads differently as LaTeX: 1,22 would be a pair."""


@cache
def load_math_verify() -> Any:
    """The package, silenced.

    Raises: MissingExtra.
    """
    try:
        import math_verify
    except ImportError as error:
        raise MissingExtra("math-verify[antlr4_13_2]", extra="maths", purpose="The grader 'maths'") from error
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    return math_verify


def _parsed(text: str) -> list[Any]:
    library = load_math_verify()
    targets = [library.LatexExtractionConfig(boxed_match_priority=0), library.ExprExtractionConfig()]
    found: list[Any] = library.parse(text, targets, parsing_timeout=None)
    return found


def _is_bare(text: str) -> bool:
    """Whether the text may be LaTeX that nothing marks as such, as references of MATH are."""
    return not _MARKED.search(text) and not _PLAIN.fullmatch(text)


def extract_maths(text: str) -> str | None:
    """What the last `\\boxed{…}` holds, or else the text; white space made one. Not simplified."""
    start = text.rfind(r"\boxed{")
    depth = 0
    for position in range(start + 6, len(text) if start >= 0 else 0):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return extract_exact(text[start + 7 : position])
    return extract_exact(text)


def grade_maths(text: str, example: Example) -> float:
    """1.0 if math-verify finds the text's last `\\boxed{…}`, or else its last expression, equal to the reference.

    Not bounded in time: some expressions take years. `eyas.storage.verdicts.judge` asks in a process that it can end.

    Raises: MissingExtra.
    Source: https://github.com/huggingface/Math-Verify, `parse` and `verify` with their defaults but for the time.
    """
    reference = example.answer or ""
    gold = _parsed(rf"\boxed{{{reference}}}" if _is_bare(reference) else reference)
    verify = load_math_verify().verify
    right = verify(gold, _parsed(text), timeout_seconds=None)
    if not right and _is_bare(text):
        right = verify(gold, _parsed(rf"\boxed{{{text}}}"), timeout_seconds=None)
    return float(right)
