"""What is dropped from training and why: duplicates, garbage, problems that an evaluation set holds too. Pure.

`Screen` sees a stream and decides afterwards; `filtered` does both for a list.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

from eyas.filtering.leaks import EvaluationSet
from eyas.filtering.rules import Rules
from eyas.filtering.screen import SAMPLE, Drop, Screen
from eyas.records import Example


def filtered(
    examples: Sequence[Example], *, evaluation: EvaluationSet, rules: Rules | None = None
) -> list[tuple[Example, Drop | None]]:
    """Each example with the reason to drop it, None to keep it; of (near-)duplicates the first stays."""
    sample = spread(examples, count=len(examples))
    screen = Screen(evaluation=evaluation, sample=sample, rules=Rules() if rules is None else rules)
    for example in examples:
        screen.see(example)
    decisions = screen.decide()
    return [(example, decisions.drop(place)) for place, example in enumerate(examples)]


def spread(examples: Iterable[Example], *, count: int) -> Iterable[Example]:
    """At most SAMPLE of `count` examples, evenly spread, for `Screen`'s sample; all where there are no more."""
    return islice(examples, 0, None, max(1, -(-count // SAMPLE)))


__all__ = ["Drop", "EvaluationSet", "Rules", "Screen", "filtered", "spread"]
