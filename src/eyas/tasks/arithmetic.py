"""Multi-step integer arithmetic: chains of additions and subtractions of two-digit numbers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from random import Random

from eyas.recipe import ArithmeticSource
from eyas.records import Example, seed_for


def canonical_key(terms: list[int]) -> str:
    """One text for all orders of the same signed terms, so that a permuted problem falls into the same split."""
    return "arithmetic:" + ",".join(f"{term:+d}" for term in sorted(terms))


def arithmetic_example(terms: list[int]) -> Example:
    """The problem `12+45-33` with its running steps `12+45=57`, `57-33=24` and its answer.

    Its level is the number of steps whose last digits carry or borrow.
    """
    total, carries = terms[0], 0
    steps = []
    for term in terms[1:]:
        carries += (abs(total) % 10 + abs(term) % 10 >= 10) if total * term > 0 else (abs(total) % 10 < abs(term) % 10)
        steps.append(f"{total}{term:+d}={total + term}")
        total += term
    problem = str(terms[0]) + "".join(f"{term:+d}" for term in terms[1:])
    return Example(
        key=canonical_key(terms),
        prompt=(("user", problem),),
        answer=str(total),
        reasoning="\n".join(steps),
        grader="numeric",
        level=f"{carries} carr{'y' if carries == 1 else 'ies'}",
    )


def draw(source: ArithmeticSource, *, split: str, seed: int) -> Iterator[Example]:
    """Problems without end, in an order that the seed decides; duplicates and other splits' problems included."""
    rng = Random(seed_for(seed, "arithmetic", split))
    for _ in count():
        length = rng.choice(source.terms)
        terms = [rng.randint(10, 99)] + [rng.randint(10, 99) * rng.choice((1, -1)) for _ in range(length - 1)]
        yield arithmetic_example(terms)
