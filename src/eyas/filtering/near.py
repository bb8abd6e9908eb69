"""Near-duplicates: prompts that say the same in almost the same words. MinHash with banding, over arrays.

The batch scheme of FineWeb's datatrove (arXiv 2406.17557, section 3.4): signatures first, then one band at a time is
sorted and neighbours in the sorted order are compared. Signatures are the library `rensa`'s.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

from eyas.filtering.text import hash_64

SHINGLE = 3
"""Words of a shingle: one changed word then breaks 3 of the some 45 shingles of a word problem."""
THRESHOLD = 0.7
"""Jaccard similarity of the shingles from which two prompts are one: RefinedWeb and FineWeb deduplicate at about 0.75
(arXiv 2306.01116, appendix G.3.1; arXiv 2406.17557), on pages of hundreds of words."""
SHORTEST = 13
"""Words of the shortest prompt that is compared; in shorter ones a single word is the problem."""
BOILERPLATE = 10
"""A shingle in more prompts than this, and in more than BOILERPLATE_SHARE of them, is an instruction."""
BOILERPLATE_SHARE = 0.01
PERMUTATIONS, BANDS = 128, 32
"""4 rows a band: a pair at the threshold meets in some band with probability 1 - (1 - 0.7^4)^32 > 0.999, and the
similarity is estimated with a standard error of 0.04. 16 bits of a row are kept, so that a band is one 64-bit key;
they are equal by chance once in 65,536 times."""
ROWS = PERMUTATIONS // BANDS
PAIRS = 2**21
"""Candidate pairs in memory before they are verified."""
_EXACT = re.compile(r"\d+(?:[.,]\d+)*|[+\-*/=<>^%()]")
Keys = NDArray[np.uint64]


class Bands(Protocol):
    """The signatures of all prompts, a band at a time."""

    def append(self, signatures_NB: Keys) -> None:
        """Add the signatures of N more prompts, uint64 [N, BANDS]."""

    def __getitem__(self, band: int) -> Keys:
        """One band of every prompt so far, uint64 [all]."""


class BandsInMemory:
    """For sets that memory holds: 256 bytes a prompt."""

    def __init__(self) -> None:
        self._blocks = [np.empty((0, BANDS), np.uint64)]

    def append(self, signatures_NB: Keys) -> None:
        self._blocks.append(signatures_NB)

    def __getitem__(self, band: int) -> Keys:
        return np.concatenate([block[:, band] for block in self._blocks])


def shingles(text: str) -> list[str]:
    """Runs of SHINGLE words of a normalised text; none of a text shorter than SHORTEST words."""
    words = text.split()
    if len(words) < SHORTEST:
        return []
    return [" ".join(words[start : start + SHINGLE]) for start in range(len(words) - SHINGLE + 1)]


def boilerplate(texts: Collection[str]) -> frozenset[str]:
    """What too many of these distinct normalised prompts share to be part of a problem."""
    prompts_with = Counter(shingle for text in texts for shingle in set(shingles(text)))
    limit = max(BOILERPLATE, BOILERPLATE_SHARE * len(texts))
    return frozenset(shingle for shingle, prompts in prompts_with.items() if prompts > limit)


def own_shingles(text: str, *, without: frozenset[str]) -> list[str]:
    """What a prompt is compared by; empty where too little is left of it to compare."""
    own = [shingle for shingle in shingles(text) if shingle not in without]
    return own if len(own) > SHORTEST - SHINGLE else []


def signatures(shingle_lists: Sequence[Sequence[str]]) -> Keys:
    """MinHash signatures, uint64 [N, BANDS]: ROWS entries of 16 bits in each."""
    digests = np.array(RMinHash.digests_from_token_sets(shingle_lists, PERMUTATIONS, 0), np.uint32)
    return digests.reshape(-1, PERMUTATIONS).astype(np.uint16).view(np.uint64)


def numbers_hash(prompt: str) -> int:
    """64 bits of the prompt's numbers and operators in their order: where these differ, so do the problems."""
    return hash_64(" ".join(_EXACT.findall(prompt)))


def earlier_neighbours(
    bands: Bands, numbers_N: Keys, *, among: NDArray[np.int64], tick: Callable[[], None] = lambda: None
) -> NDArray[np.int64]:
    """For each of the rows `among` [M] (ascending) the position there of the one it repeats, -1 for none.

    Two prompts with the same numbers repeat each other if at least THRESHOLD of their signatures' entries are equal:
    MinHash's estimate of the Jaccard similarity, not the exact one. A prompt repeats the earliest such one before it
    and, where that one itself repeats another, the one at the end of the chain, which repeats none. Candidates are, in
    each band's run of equal keys, each prompt with the first and with the one before it. `tick` is called BANDS times.
    """
    count = len(among)
    numbers = numbers_N[among]
    earliest = np.full(count, count, np.int64)
    pairs: Keys = np.empty(0, np.uint64)
    for band in range(BANDS):
        pairs = np.union1d(pairs, _candidates(bands[band][among] ^ numbers))
        if len(pairs) > PAIRS or band == BANDS - 1:
            first, later = (pairs >> np.uint64(32)).astype(np.int64), (pairs & np.uint64(2**32 - 1)).astype(np.int64)
            alike = _equal_entries(bands, among[first], among[later]) >= THRESHOLD * PERMUTATIONS
            alike &= numbers[first] == numbers[later]
            np.minimum.at(earliest, later[alike], first[alike])
            pairs = pairs[:0]
        tick()
    of = np.where(earliest < count, earliest, -1)
    return _ends_of_chains(of)


def _candidates(keys: Keys) -> Keys:
    """Pairs with the same key as `earlier << 32 | later`."""
    order = np.argsort(keys, kind="stable").astype(np.uint64)
    same = keys[order[1:]] == keys[order[:-1]]
    begins = np.where(np.concatenate([[False], same]), 0, np.arange(len(keys)))
    first = order[np.maximum.accumulate(begins)][1:][same]
    later, before = order[1:][same], order[:-1][same]
    return np.concatenate([first << np.uint64(32) | later, before << np.uint64(32) | later])


def _equal_entries(bands: Bands, first: NDArray[np.int64], later: NDArray[np.int64]) -> NDArray[np.int64]:
    equal = np.zeros(len(first), np.int64)
    if len(first):
        for band in range(BANDS):
            rows = bands[band].view(np.uint16).reshape(-1, ROWS)
            equal += (rows[first] == rows[later]).sum(axis=1)
    return equal


def _ends_of_chains(of: NDArray[np.int64]) -> NDArray[np.int64]:
    while True:
        further = np.where(of >= 0, of[of], -1)
        if not (further >= 0).any():
            return of
        of = np.where(further >= 0, further, of)
