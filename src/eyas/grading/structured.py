"""Answers that are JSON, and references that are a regular expression."""

from __future__ import annotations

import json
import re
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any

import regex

from eyas.records import Example

REGEX_TIMEOUT_S = 1.0
"""A search that takes longer has not found its pattern: some patterns need exponential time."""
_FENCE = re.compile(r"^[ \t]*```[A-Za-z]*[ \t]*\n(?P<body>.*?)\n?[ \t]*```[ \t]*$", re.DOTALL | re.MULTILINE)


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> Any:
    try:
        return regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError):
        return None


def can_search(example: Example) -> bool:
    """Whether the reference is a pattern that compiles."""
    return bool(example.answer) and _compiled(example.answer) is not None


def grade_regex(text: str, example: Example) -> float:
    """1.0 if the reference, a pattern of the `regex` package, is found in the text (`^…$` for all of it)."""
    try:
        return float(_compiled(example.answer or "").search(text.strip(), timeout=REGEX_TIMEOUT_S) is not None)
    except TimeoutError:
        return 0.0


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _parse(text: str) -> Any:
    """The text as JSON with its numbers as Decimal. Raises: ValueError, RecursionError, InvalidOperation."""
    return json.loads(
        text, parse_int=Decimal, parse_float=Decimal, parse_constant=_no_constant, object_pairs_hook=_unique
    )


def extract_json(text: str) -> str | None:
    """The text, or its last fenced block, as canonical JSON: sorted keys, plain numbers; None if it is not JSON.

    Objects with a key twice, NaN and Infinity are not JSON here (RFC 8259, sections 4 and 6).
    """
    fenced = _FENCE.findall(text)
    try:
        return _canonical(_parse(fenced[-1] if fenced else text))
    except (ValueError, RecursionError, InvalidOperation):
        return None


def _canonical(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{_canonical(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_canonical, value)) + "]"
    if isinstance(value, Decimal):
        return _plain(value)
    return json.dumps(value)


def _plain(number: Decimal) -> str:
    """Sign, digits without zeros at the end, and exponent: 1, 1.0 and 10e-1 are all `1e0`."""
    sign, digits, exponent = number.as_tuple()
    if not isinstance(exponent, int):
        raise ValueError(f"{number} is not a JSON number")
    written = "".join(map(str, digits)).lstrip("0")
    stripped = written.rstrip("0")
    return f"{'-' * sign}{stripped}e{exponent + len(written) - len(stripped)}" if stripped else "0"


def grade_json(text: str, example: Example) -> float:
    """1.0 if the text and the reference are the same JSON value: order of keys and form of numbers do not count."""
    found = extract_json(text)
    return float(found is not None and found == extract_json(example.answer or ""))
