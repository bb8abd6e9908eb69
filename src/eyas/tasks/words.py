"""Made-up words spelt backwards: what the embedded pair can do besides arithmetic, for the forgetting check."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from random import Random

from eyas.records import Example, seed_for

LETTERS = "abcdefghijklmnopqrstuvwxyz"
LENGTHS = (3, 4, 5)


def words_example(word: str) -> Example:
    """The word, its letters one by one as reasoning, and the word reversed as the answer."""
    return Example(
        key=f"words:{word}",
        prompt=(("user", f"reverse {word}"),),
        answer=word[::-1],
        reasoning=" ".join(reversed(word)),
        grader="exact",
        level=f"{len(word)} letters",
    )


def draw(*, split: str, seed: int) -> Iterator[Example]:
    """Words without end, in an order that the seed decides; duplicates and other splits' words included."""
    rng = Random(seed_for(seed, "words", split))
    for _ in count():
        yield words_example("".join(rng.choice(LETTERS) for _ in range(rng.choice(LENGTHS))))
