"""What is dropped from training and why: duplicates, and problems that an evaluation set holds too. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from eyas.records import Example

NGRAM = 13
"""Words of a shared run that count as a leak: GPT-3's decontamination (arXiv 2005.14165, appendix C)."""


def normalised(text: str) -> str:
    """Lower case, runs of anything but letters, digits and signs made one space."""
    return re.sub(r"[^\w+\-*/=.]+", " ", text.lower()).strip()


def prompt_text(example: Example) -> str:
    """The example's prompt as one normalised text."""
    return normalised(" ".join(text for _, text in example.prompt))


def ngrams(text: str) -> set[str]:
    """Runs of NGRAM words; none in shorter texts."""
    words = text.split()
    return {" ".join(words[start : start + NGRAM]) for start in range(len(words) - NGRAM + 1)}


class EvaluationSet:
    """The problems that no training prompt may repeat."""

    def __init__(self, examples: Iterable[Example]) -> None:
        texts = [prompt_text(example) for example in examples]
        self._texts = set(texts)
        self._ngrams = set().union(*map(ngrams, texts)) if texts else set()

    def leak(self, text: str) -> str | None:
        """Why this normalised prompt is a leak: `same_as_evaluation`, `shares_13_words_with_evaluation`, or None."""
        if text in self._texts:
            return "same_as_evaluation"
        if self._ngrams and not self._ngrams.isdisjoint(ngrams(text)):
            return "shares_13_words_with_evaluation"
        return None


def filtered(examples: Iterable[Example], *, evaluation: EvaluationSet) -> Iterator[tuple[Example, str | None]]:
    """Each example with the reason to drop it, None to keep it; `duplicate` for a prompt met before."""
    seen: set[str] = set()
    for example in examples:
        text = prompt_text(example)
        reason = "empty_prompt" if not text else "duplicate" if text in seen else evaluation.leak(text)
        seen.add(text)
        yield example, reason
