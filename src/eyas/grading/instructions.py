"""Verifiable instructions, as IFEval's, by the if-verifiable package (extra `instructions`)."""

from __future__ import annotations

import json
from functools import cache, lru_cache
from typing import Any

from eyas.errors import GradingError, MissingExtra
from eyas.records import Example

_NEED_SENTENCES = {"length_constraints:number_sentences", "change_case:capital_word_frequency"}
"""They split the text with NLTK's English sentence model, which no package carries."""


@cache
def load_if_verifiable() -> tuple[Any, dict[str, Any]]:
    """The package's `evaluate_instructions` and its checkers by the instruction's name.

    langdetect draws at random unless it is seeded; IFEval's own code seeds it with 0.

    Raises: MissingExtra.
    """
    try:
        import langdetect
        from if_verifiable.common import evaluate_instructions
        from if_verifiable.ifeval.instructions_registry import INSTRUCTION_DICT
    except ImportError as error:
        raise MissingExtra("if-verifiable", extra="instructions", purpose="The grader 'instructions'") from error
    langdetect.DetectorFactory.seed = 0
    return evaluate_instructions, INSTRUCTION_DICT


def _constraints(metadata: str) -> tuple[list[str], list[dict[str, Any]]] | None:
    """IFEval's `instruction_id_list` and `kwargs`, one of each per instruction; None if the metadata hold none."""
    try:
        found = json.loads(metadata)
        names, settings = found["instruction_id_list"], found["kwargs"]
    except (ValueError, KeyError, TypeError):
        return None
    if not (isinstance(names, list) and isinstance(settings, list) and names and len(names) == len(settings)):
        return None
    usable = all(isinstance(item, dict) for item in settings) and all(isinstance(name, str) for name in names)
    return (names, settings) if usable else None


def can_check(example: Example) -> bool:
    """Whether the metadata hold constraints that the package knows, each with all its settings.

    The package would skip an unknown instruction, and draw at random what a setting leaves open.

    Raises: GradingError, if an instruction needs NLTK's sentence model and it is not installed; MissingExtra.
    """
    return _can_check(example.metadata)


@lru_cache(maxsize=4096)
def _can_check(metadata: str) -> bool:
    found = _constraints(metadata)
    if found is None:
        return False
    names, settings = found
    _, registry = load_if_verifiable()
    for name, given in zip(names, settings, strict=True):
        if name not in registry or not _settled(registry[name](name), given):
            return False
    if _NEED_SENTENCES.intersection(names):
        _require_sentences(sorted(_NEED_SENTENCES.intersection(names)))
    return True


def _settled(checker: Any, settings: dict[str, Any]) -> bool:
    """Whether the settings are the checker's own and decide all of it."""
    given = {name: value for name, value in settings.items() if value is not None}
    try:
        checker.build_description(**given)
    except (TypeError, ValueError, AttributeError):
        return False
    used = checker.get_instruction_args() or {}
    if used.get("nth_paragraph", 0) > used.get("num_paragraphs", 0):
        return False  # drawn anew each time, so that it may be as given
    return all(_comparable(given.get(name)) == _comparable(value) for name, value in used.items())


def _comparable(value: Any) -> Any:
    """A setting up to case, white space at its ends and, in lists, order: what the checkers change of their own."""
    if isinstance(value, list | tuple | set):
        return {str(item).strip().lower() for item in value}
    return str(value).strip().lower()


def _require_sentences(names: list[str]) -> None:
    import nltk

    try:
        nltk.data.find("tokenizers/punkt_tab/english/")
    except LookupError as error:
        raise GradingError(
            f"the grader 'instructions' needs NLTK's sentence model for {' and '.join(names)}, and found none. Run "
            "`python -m nltk.downloader punkt_tab` where there is a network, and copy the folder nltk_data to your "
            "home directory here or name it in NLTK_DATA; or leave those examples out."
        ) from error


def grade_instructions(text: str, example: Example) -> float:
    """1.0 if the text follows every instruction to the letter: IFEval's prompt-level strict accuracy.

    Source: IFEval, arXiv 2311.07911; https://pypi.org/project/if-verifiable/, `binary_strict`.
    """
    names, settings = _constraints(example.metadata) or ([], [])
    evaluate, registry = load_if_verifiable()
    _, scores = evaluate(text, names, settings, example.prompt[-1][1], registry)
    return float(scores.binary_strict)
