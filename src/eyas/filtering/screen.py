"""Which examples of a stream are dropped: small features of each as it passes, then all decisions at once.

A screened example costs some 40 bytes of memory and, where it is long enough to be compared, 256 bytes in `bands`,
which need not be memory.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eyas.filtering import near
from eyas.filtering.leaks import EvaluationSet
from eyas.filtering.reasons import CODES, LEAKS, NAMES
from eyas.filtering.rules import Rules
from eyas.filtering.text import hash_64, normalised, prompt_text, written
from eyas.records import Example

SAMPLE = 10_000
"""Distinct prompts among which runs of words are counted to know instructions from problems."""
BATCH = 4096
"""Prompts whose signatures are computed together."""


@dataclass(frozen=True)
class Drop:
    """Why an example is left out."""

    reason: str
    """One of `REASONS`."""
    of: str = ""
    """Id of the example that it repeats, where it repeats one."""


@dataclass(frozen=True)
class Decisions:
    """What becomes of each of N examples, in the order in which they were screened."""

    codes_N: NDArray[np.uint8]
    """0 for kept, otherwise the reason's number in `CODES`."""
    of_N: NDArray[np.int64]
    """Place of the earlier example that it repeats; of a leak, place of the held-out one; -1 for neither."""
    ids_N: NDArray[np.uint64]
    answered_N: NDArray[np.bool_]
    evaluation: EvaluationSet

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Which are kept."""
        kept: NDArray[np.bool_] = self.codes_N == 0
        return kept

    def drop(self, place: int) -> Drop | None:
        """Why the example of this place is dropped, None if it is kept."""
        reason, of = NAMES[self.codes_N[place]], int(self.of_N[place])
        if not reason or of < 0:
            return Drop(reason) if reason else None
        return Drop(reason, of=self.evaluation.examples[of].id if reason in LEAKS else f"{self.ids_N[of]:016x}")

    def originals(self, reason: str, *, first: int) -> frozenset[int]:
        """Places of what the `first` examples dropped for this reason repeat."""
        return frozenset(map(int, self.of_N[np.flatnonzero(self.codes_N == CODES[reason])[:first]]))


class Screen:
    """Sees each example once, in the order in which of (near-)duplicates the first stays; then decides."""

    def __init__(
        self, *, evaluation: EvaluationSet, sample: Iterable[Example], rules: Rules, bands: near.Bands | None = None
    ) -> None:
        """`sample`: examples that stand for all, SAMPLE of them or, where there are fewer, all."""
        texts = dict.fromkeys(map(prompt_text, sample))
        self._evaluation, self._rules = evaluation, rules
        self._identifying = evaluation.identifying(texts)
        held_out = map(prompt_text, evaluation.examples)
        self._boilerplate = near.boilerplate(dict.fromkeys([*held_out, *texts]))
        self._bands = near.BandsInMemory() if bands is None else bands
        self._texts, self._ids, self._numbers = array("Q"), array("Q"), array("Q")
        self._codes, self._answered = array("B"), array("B")
        self._of, self._rows = array("q"), array("q")
        self._waiting: list[list[str]] = []
        for place, example in enumerate(evaluation.examples):
            self._compare(written(example), prompt_text(example), place=place)

    def see(self, example: Example) -> None:
        """The next example."""
        prompt, id_ = written(example), int(example.id, 16)
        text = normalised(prompt)
        place = len(self._codes)
        reason, of = self._rules.broken_by(prompt, text=text, number=id_), -1
        if reason is None and (leak := self._evaluation.leak(text, identifying=self._identifying)) is not None:
            reason, of = leak
        self._texts.append(hash_64(text))
        self._ids.append(id_)
        self._codes.append(0 if reason is None else CODES[reason])
        self._of.append(of)
        self._answered.append(example.answer is not None)
        if reason is None:
            self._compare(prompt, text, place=len(self._evaluation.examples) + place)

    def _compare(self, prompt: str, text: str, *, place: int) -> None:
        if own := near.own_shingles(text, without=self._boilerplate):
            self._rows.append(place)
            self._numbers.append(near.numbers_hash(prompt))
            self._waiting.append(own)
            if len(self._waiting) == BATCH:
                self._sign()

    def _sign(self) -> None:
        if self._waiting:
            self._bands.append(near.signatures(self._waiting))
            self._waiting = []

    def decide(self, *, tick: Callable[[], None] = lambda: None) -> Decisions:
        """The decisions on all that were seen; `tick` is called `near.BANDS` times."""
        self._sign()
        codes, of = np.array(self._codes, np.uint8), np.array(self._of, np.int64)
        ids, texts = np.array(self._ids, np.uint64), np.array(self._texts, np.uint64)
        for keys in (texts, ids):
            alone = np.isin(codes, [0, *(CODES[reason] for reason in LEAKS)])
            _drop_repeated(keys, np.flatnonzero(alone), codes, of)
        rows, held_out = np.array(self._rows, np.int64), len(self._evaluation.examples)
        among = np.flatnonzero(np.concatenate([np.ones(held_out, np.bool_), codes == 0])[rows])
        found = near.earlier_neighbours(self._bands, np.array(self._numbers, np.uint64), among=among, tick=tick)
        rows = rows[among]
        repeats = (found >= 0) & (rows >= held_out)
        places, originals = rows[repeats] - held_out, rows[found[repeats]]
        leaked = originals < held_out
        codes[places] = np.where(leaked, CODES["near_evaluation"], CODES["near_duplicate"])
        of[places] = np.where(leaked, originals, originals - held_out)
        return Decisions(codes, of, ids, np.array(self._answered, np.bool_), self._evaluation)


def _drop_repeated(
    keys: NDArray[np.uint64], among: NDArray[np.int64], codes: NDArray[np.uint8], of: NDArray[np.int64]
) -> None:
    """Mark, of the places `among` whose keys are equal, all but the first as duplicates of it."""
    _, first, inverse = np.unique(keys[among], return_index=True, return_inverse=True)
    original = among[first[inverse]]
    repeated = original != among
    codes[among[repeated]] = CODES["duplicate"]
    of[among[repeated]] = original[repeated]
