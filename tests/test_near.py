"""Near-duplicates: the same as comparing all with all, in memory, on disk, in one batch of candidates and in many."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest

from eyas.filtering import near
from eyas.filtering.near import BANDS, PERMUTATIONS, THRESHOLD, BandsInMemory
from eyas.storage.bands import BandFiles

WORDS = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "lmnrs"]


def families(count: int, *, size: int) -> list[str]:
    """Texts of 60 words: each in variants of one to three other words, shuffled."""
    random, made = Random(3), []
    for _ in range(count):
        words = random.choices(WORDS, k=60)
        for _ in range(size):
            variant = list(words)
            for at in random.sample(range(60), random.randint(1, 3)):
                variant[at] = random.choice(WORDS)
            made.append(" ".join(variant))
    random.shuffle(made)
    return made


def naive(signatures_NB: near.Keys, numbers: list[int]) -> list[int]:
    """All with all: the earliest before it with enough equal entries, and so on to one that has none."""
    rows = signatures_NB.view(np.uint16)
    of = [-1] * len(rows)
    for later in range(len(rows)):
        for first in range(later):
            alike = numbers[first] == numbers[later] and (rows[first] == rows[later]).sum() >= THRESHOLD * PERMUTATIONS
            if alike:
                of[later] = first
                break
    for later in range(len(rows)):
        while of[later] >= 0 and of[of[later]] >= 0:
            of[later] = of[of[later]]
    return of


@pytest.mark.parametrize("pairs", [10, 2**21], ids=["many batches", "one batch"])
@pytest.mark.parametrize("where", ["memory", "disk"])
def test_sorting_bands_finds_what_comparing_all_with_all_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, pairs: int
) -> None:
    monkeypatch.setattr(near, "PAIRS", pairs)
    texts = families(80, size=5)
    made = near.signatures([near.shingles(text) for text in texts])
    numbers = [number % 7 // 6 for number in range(len(texts))]
    expected = naive(made, numbers)
    assert 100 < sum(of >= 0 for of in expected) < 350
    bands = BandsInMemory() if where == "memory" else BandFiles(tmp_path / "bands")
    for start in range(0, len(texts), 150):
        bands.append(made[start : start + 150])
    steps: list[None] = []
    everything = np.arange(len(texts))
    found = near.earlier_neighbours(
        bands, np.array(numbers, np.uint64), among=everything, tick=lambda: steps.append(None)
    )
    assert (found.tolist(), len(steps)) == (expected, BANDS)
    some = everything[::3]
    found = near.earlier_neighbours(bands, np.array(numbers, np.uint64), among=some)
    assert found.tolist() == naive(made[::3], numbers[::3])
    if isinstance(bands, BandFiles):
        bands.close()


def test_a_chain_ends_at_its_first_prompt() -> None:
    """One word more is changed from link to link: neighbours are alike, the ends are not."""
    words = Random(5).choices(WORDS, k=40)
    texts = [" ".join([*WORDS[:changed], *words[changed:]]) for changed in range(0, 20, 2)]
    made = near.signatures([near.shingles(text) for text in texts])
    bands = BandsInMemory()
    bands.append(made)
    rows = made.view(np.uint16)
    assert (rows[0] == rows[-1]).mean() < 0.5
    found = near.earlier_neighbours(bands, np.zeros(10, np.uint64), among=np.arange(10))
    assert found.tolist() == [-1] + [0] * 9


def test_nothing_to_compare_gives_nothing() -> None:
    found = near.earlier_neighbours(BandsInMemory(), np.empty(0, np.uint64), among=np.empty(0, np.int64))
    assert found.shape == (0,)


def test_equal_entries_estimate_the_jaccard_similarity() -> None:
    """100 pairs that share 40 of 60 shingles (2/3): the mean estimate is within three standard errors."""
    random, estimates = Random(7), []
    for _ in range(100):
        pool = [str(random.random()) for _ in range(60)]
        first, second = near.signatures([pool[:50], pool[10:]]).view(np.uint16)
        estimates.append(float((first == second).mean()))
    # sqrt(2/3 * 1/3 / 128) = 0.042 for one pair, 0.0042 for the mean of 100.
    assert abs(np.mean(estimates) - 2 / 3) < 3 * 0.0042
