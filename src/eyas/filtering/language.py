"""Which language a prompt is in, by the library `py3langid` (extra `eyas[language]`); offline, its model is in it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cache

from eyas.errors import MissingExtra, RecipeError

CONFIDENCE = 0.9
"""Normalised probability below which a prompt's language counts as unknown, as that of code mostly is."""
SHORTEST = 20
"""Letters below which a prompt's language counts as unknown."""
UNKNOWN = ("und", "zxx")
"""What the library says when it is not sure, and of what is no language."""


def language_of(prompt: str) -> str | None:
    """ISO 639 code, None where it cannot be told.

    Raises: MissingExtra, without the library.
    """
    if sum(map(str.isalpha, prompt)) < SHORTEST:
        return None
    found, _ = _identifier()[0](prompt)
    return None if found in UNKNOWN else found


def check_languages(languages: Collection[str]) -> None:
    """All of these are codes that the library knows.

    Raises: RecipeError, naming one that is not; MissingExtra, without the library.
    """
    known = _identifier()[1] if languages else frozenset()
    for name in languages:
        if name not in known:
            raise RecipeError(
                f"`languages`: {name!r} is not known; expected ISO 639 codes among {', '.join(sorted(known))}."
            )


@cache
def _identifier() -> tuple[Callable[[str], tuple[str, float]], frozenset[str]]:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise MissingExtra("py3langid", extra="language", purpose="`languages` of a prepare stage") from error
    made = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True, min_confidence=CONFIDENCE)
    return made.classify, frozenset(made.labels) - set(UNKNOWN)
