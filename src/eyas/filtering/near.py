"""Near-duplicates: prompts that say the same in almost the same words."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection

from rensa import RMinHash, RMinHashLSH

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
similarity is estimated with a standard error of 0.04."""
_EXACT = re.compile(r"\d+(?:[.,]\d+)*|[+\-*/=<>^%()]")


def shingles(text: str) -> list[str]:
    """Runs of SHINGLE words of a normalised text; none of a text shorter than SHORTEST words."""
    words = text.split()
    if len(words) < SHORTEST:
        return []
    return [" ".join(words[start : start + SHINGLE]) for start in range(len(words) - SHINGLE + 1)]


class NearDuplicates:
    """Prompts met so far, found again by MinHash with locality-sensitive hashing (the library `rensa`).

    Two prompts whose numbers and operators differ, in themselves or in their order, are different problems however
    alike their words are. The similarity is MinHash's estimate, not the exact one.
    """

    def __init__(self, texts: Collection[str]) -> None:
        """`texts` are the distinct normalised prompts to come: what too many of them share is no part of a problem."""
        prompts_with = Counter(shingle for text in texts for shingle in set(shingles(text)))
        limit = max(BOILERPLATE, BOILERPLATE_SHARE * len(texts))
        self._boilerplate = {shingle for shingle, prompts in prompts_with.items() if prompts > limit}
        self._lsh = RMinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS, num_bands=BANDS)
        self._known: list[tuple[str, RMinHash]] = []
        self._by_numbers: dict[tuple[str, ...], set[int]] = defaultdict(set)

    def earlier(self, text: str, *, prompt: str, id_: str) -> str | None:
        """Id of an earlier prompt that this one repeats; None, and remembered, if there is none.

        `text` is the normalised prompt, `prompt` the same as it was written, with all its signs.
        """
        own = [shingle for shingle in shingles(text) if shingle not in self._boilerplate]
        if len(own) <= SHORTEST - SHINGLE:
            return None
        minhash = RMinHash(num_perm=PERMUTATIONS, seed=0)
        minhash.update(own)
        alike = self._by_numbers[tuple(_EXACT.findall(prompt))]
        for index in sorted(alike.intersection(self._lsh.query(minhash))):
            found, other = self._known[index]
            if minhash.jaccard(other) >= THRESHOLD:
                return found
        index = len(self._known)
        self._known.append((id_, minhash))
        alike.add(index)
        self._lsh.insert(index, minhash)
        return None
