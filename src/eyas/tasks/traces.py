"""Short reasoning traces for reasoning-gym tasks, which come without any. Written from the entry's own metadata."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Entry = Mapping[str, Any]


def chain_sum(entry: Entry) -> str:
    """Running totals of a chain of additions and subtractions: `4+3=7`, one a line."""
    first, *rest = entry["metadata"]["expression"].split()
    terms = [int(first)]
    for operator, number in zip(rest[::2], rest[1::2], strict=True):
        terms.append(-int(number) if operator == "-" else int(number))
    total, lines = terms[0], []
    for term in terms[1:]:
        lines.append(f"{total}{term:+d}={total + term}")
        total += term
    return "\n".join(lines)


def spell_backward(entry: Entry) -> str:
    """The letters one by one, last first."""
    return " ".join(reversed(entry["metadata"]["word"]))


def letter_counting(entry: Entry) -> str:
    """Every word that holds the letter with its count."""
    letter = entry["metadata"]["target_letter"].lower()
    found = [(word, word.lower().count(letter)) for word in entry["metadata"]["span"]]
    return ", ".join(f"{word} {count}" for word, count in found if count) or "none"


TRACES: dict[str, Callable[[Entry], str]] = {
    "chain_sum": chain_sum,
    "letter_counting": letter_counting,
    "spell_backward": spell_backward,
}
"""Task -> trace. A task that is not here has no reasoning, so only its fast mode can be trained on labels."""
