"""What is dropped from training and why: duplicates, and problems that an evaluation set holds too. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from eyas.records import Example

NGRAM = 13
"""Words of a shared run that count as a leak: GPT-3's decontamination (arXiv 2005.14165, appendix C)."""
BOILERPLATE = 10
"""A run of words in more prompts than this is an instruction or a system prompt, not a problem; the same source
ignores runs that collide with more than 10 training documents. Here evaluation prompts count too."""


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
        self._texts = {prompt_text(example) for example in examples}
        self._prompts_with = Counter(gram for text in self._texts for gram in ngrams(text))

    def identifying(self, texts: Iterable[str]) -> frozenset[str]:
        """The evaluation prompts' n-grams without boilerplate, given the distinct normalised training prompts."""
        if not self._prompts_with:
            return frozenset()
        prompts_with = self._prompts_with.copy()
        for text in texts:
            prompts_with.update(gram for gram in ngrams(text) if gram in self._prompts_with)
        return frozenset(gram for gram, prompts in prompts_with.items() if prompts <= BOILERPLATE)

    def leak(self, text: str, *, identifying: frozenset[str]) -> str | None:
        """Why this normalised prompt is a leak: `same_as_evaluation`, `shares_13_words_with_evaluation`, or None."""
        if text in self._texts:
            return "same_as_evaluation"
        if identifying and not identifying.isdisjoint(ngrams(text)):
            return "shares_13_words_with_evaluation"
        return None


def filtered(examples: Sequence[Example], *, evaluation: EvaluationSet) -> list[tuple[Example, str | None]]:
    """Each example with the reason to drop it, None to keep it; `duplicate` for a prompt met before."""
    texts = [prompt_text(example) for example in examples]
    identifying = evaluation.identifying(dict.fromkeys(texts))
    seen: set[str] = set()
    found: list[tuple[Example, str | None]] = []
    for example, text in zip(examples, texts, strict=True):
        if not text:
            reason: str | None = "empty_prompt"
        else:
            reason = "duplicate" if text in seen else evaluation.leak(text, identifying=identifying)
        seen.add(text)
        found.append((example, reason))
    return found
