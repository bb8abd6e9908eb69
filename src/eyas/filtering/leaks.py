"""Decontamination: training prompts that are, or share a run of words with, an evaluation prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from eyas.filtering.text import prompt_text
from eyas.records import Example

NGRAM = 13
"""Words of a shared run that count as a leak: GPT-3's decontamination (arXiv 2005.14165, appendix C)."""
BOILERPLATE = 10
"""A run of words in more prompts than this is an instruction or a system prompt, not a problem; the same source
ignores runs that collide with more than 10 training documents. Counted are the evaluation prompts and a sample of at
most 10,000 training prompts: in a large set a leak that is there a few dozen times stays a leak."""


def ngrams(text: str) -> set[str]:
    """Runs of NGRAM words; none in shorter texts."""
    words = text.split()
    return {" ".join(words[start : start + NGRAM]) for start in range(len(words) - NGRAM + 1)}


class EvaluationSet:
    """The problems that no training prompt may repeat; of several with the same prompt the first."""

    def __init__(self, examples: Iterable[Example]) -> None:
        self._numbers: dict[str, int] = {}
        self.examples: list[Example] = []
        """Those with different prompts, in the order they were given."""
        for example in examples:
            text = prompt_text(example)
            if text not in self._numbers:
                self._numbers[text] = len(self.examples)
                self.examples.append(example)
        self._holders: dict[str, int] = {}
        for text, number in self._numbers.items():
            for gram in ngrams(text):
                self._holders.setdefault(gram, number)
        self._prompts_with = Counter(gram for text in self._numbers for gram in ngrams(text))

    def identifying(self, texts: Iterable[str]) -> frozenset[str]:
        """The evaluation prompts' n-grams without boilerplate, given distinct normalised training prompts."""
        if not self._prompts_with:
            return frozenset()
        prompts_with = self._prompts_with.copy()
        for text in texts:
            prompts_with.update(gram for gram in ngrams(text) if gram in self._prompts_with)
        return frozenset(gram for gram, prompts in prompts_with.items() if prompts <= BOILERPLATE)

    def leak(self, text: str, *, identifying: frozenset[str]) -> tuple[str, int] | None:
        """Why this normalised prompt is a leak, and which of `examples` it repeats; None if it is none.

        `same_as_evaluation`, or `shares_13_words_with_evaluation`.
        """
        if text in self._numbers:
            return "same_as_evaluation", self._numbers[text]
        shared = identifying & ngrams(text) if identifying else identifying
        return ("shares_13_words_with_evaluation", self._holders[min(shared)]) if shared else None
