"""What is dropped from training and why: (near-)duplicates, and problems that an evaluation set holds too. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from eyas.filtering.near import NearDuplicates
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
    return normalised(_written(example))


def _written(example: Example) -> str:
    return " ".join(text for _, text in example.prompt)


def ngrams(text: str) -> set[str]:
    """Runs of NGRAM words; none in shorter texts."""
    words = text.split()
    return {" ".join(words[start : start + NGRAM]) for start in range(len(words) - NGRAM + 1)}


class EvaluationSet:
    """The problems that no training prompt may repeat."""

    def __init__(self, examples: Iterable[Example]) -> None:
        self._texts: dict[str, str] = {}
        self._holders: dict[str, str] = {}
        for example in examples:
            self._texts.setdefault(prompt_text(example), example.id)
        for text, id_ in self._texts.items():
            for gram in ngrams(text):
                self._holders.setdefault(gram, id_)
        self._prompts_with = Counter(gram for text in self._texts for gram in ngrams(text))

    def identifying(self, texts: Iterable[str]) -> frozenset[str]:
        """The evaluation prompts' n-grams without boilerplate, given the distinct normalised training prompts."""
        if not self._prompts_with:
            return frozenset()
        prompts_with = self._prompts_with.copy()
        for text in texts:
            prompts_with.update(gram for gram in ngrams(text) if gram in self._prompts_with)
        return frozenset(gram for gram, prompts in prompts_with.items() if prompts <= BOILERPLATE)

    def leak(self, text: str, *, identifying: frozenset[str]) -> tuple[str, str] | None:
        """Why this normalised prompt is a leak, and the id of the evaluation example it repeats; None if it is none.

        `same_as_evaluation`, or `shares_13_words_with_evaluation`.
        """
        if text in self._texts:
            return "same_as_evaluation", self._texts[text]
        shared = identifying & ngrams(text)
        return ("shares_13_words_with_evaluation", self._holders[min(shared)]) if shared else None


@dataclass(frozen=True)
class Drop:
    """Why an example is left out."""

    reason: str
    """`empty_prompt`, `duplicate`, `near_duplicate`, `same_as_evaluation` or `shares_13_words_with_evaluation`."""
    of: str = ""
    """Id of the example that it repeats, where that is known."""


def filtered(examples: Sequence[Example], *, evaluation: EvaluationSet) -> list[tuple[Example, Drop | None]]:
    """Each example with the reason to drop it, None to keep it; of (near-)duplicates the first stays."""
    texts = [prompt_text(example) for example in examples]
    identifying = evaluation.identifying(dict.fromkeys(texts))
    seen: dict[str, str] = {}
    near = NearDuplicates(dict.fromkeys(texts))
    found: list[tuple[Example, Drop | None]] = []
    for example, text in zip(examples, texts, strict=True):
        drop: Drop | None = None
        if not text:
            drop = Drop("empty_prompt")
        elif text in seen:
            drop = Drop("duplicate", of=seen[text])
        elif (leak := evaluation.leak(text, identifying=identifying)) is not None:
            drop = Drop(*leak)
        elif (repeated := near.earlier(text, prompt=_written(example), id_=example.id)) is not None:
            drop = Drop("near_duplicate", of=repeated)
        seen.setdefault(text, example.id)
        found.append((example, drop))
    return found
