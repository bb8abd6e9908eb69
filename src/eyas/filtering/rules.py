"""What can be said of a prompt by looking at it alone."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from eyas.filtering.garbage import is_garbage
from eyas.filtering.language import language_of

UNLIMITED = 2**62


@dataclass(frozen=True)
class Rules:
    """The recipe's limits. By default all that is not garbage passes."""

    min_characters: int = 1
    max_characters: int = UNLIMITED
    languages: Collection[str] = ()
    """ISO 639 codes; empty for any language."""
    excluded: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    """Ids of examples that the user left out, sorted."""

    def broken_by(self, prompt: str, *, text: str, number: int) -> str | None:
        """The reason to drop a prompt, None for none.

        `prompt` is as written, `text` the same normalised, `number` the example's id as a number.
        """
        if self.excludes(number):
            return "excluded"
        if not text:
            return "empty_prompt"
        if len(prompt) < self.min_characters:
            return "too_short"
        if len(prompt) > self.max_characters:
            return "too_long"
        if is_garbage(prompt):
            return "garbage"
        if self.languages and language_of(prompt) not in (None, *self.languages):
            return "language"
        return None

    def excludes(self, number: int) -> bool:
        """Whether this id was left out by the user."""
        if not len(self.excluded):
            return False
        at = int(np.searchsorted(self.excluded, np.uint64(number)))
        return at < len(self.excluded) and int(self.excluded[at]) == number
