"""Verifiable instructions, as IFEval's, by the if-verifiable package (extra `instructions`)."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from eyas.errors import GradingError, MissingExtra
from eyas.records import Example


@cache
def _library() -> tuple[Any, dict[str, Any]]:
    try:
        from if_verifiable.common import evaluate_instructions
        from if_verifiable.ifeval.instructions_registry import INSTRUCTION_DICT
    except ImportError as error:
        raise MissingExtra("if-verifiable", extra="instructions", purpose="The grader 'instructions'") from error
    return evaluate_instructions, INSTRUCTION_DICT


def _constraints(example: Example) -> tuple[list[str], list[dict[str, Any]]] | None:
    """IFEval's `instruction_id_list` and `kwargs`, one of each per instruction; None if the metadata hold none."""
    try:
        found = json.loads(example.metadata)
        names, settings = found["instruction_id_list"], found["kwargs"]
    except (ValueError, KeyError, TypeError):
        return None
    if not (isinstance(names, list) and isinstance(settings, list) and names and len(names) == len(settings)):
        return None
    usable = all(isinstance(item, dict) for item in settings) and all(isinstance(name, str) for name in names)
    return (names, settings) if usable else None


def can_check(example: Example) -> bool:
    """Whether the metadata hold constraints, all of which the package knows (it would skip an unknown one)."""
    found = _constraints(example)
    return found is not None and set(found[0]) <= set(_library()[1])


def grade_instructions(text: str, example: Example) -> float:
    """1.0 if the text follows every instruction to the letter: IFEval's prompt-level strict accuracy.

    Raises: GradingError, if NLTK's sentence data are missing or an instruction's settings are not its own.
    Source: IFEval, arXiv 2311.07911; https://pypi.org/project/if-verifiable/, `binary_strict`.
    """
    names, settings = _constraints(example) or ([], [])
    evaluate, registry = _library()
    try:
        _, scores = evaluate(text, names, settings, example.prompt[-1][1], registry)
    except LookupError as error:
        raise GradingError(
            f"the grader 'instructions' needs NLTK's data for {', '.join(names)}: `python -m nltk.downloader punkt "
            f"punkt_tab` ({str(error).strip().splitlines()[0][:80]})."
        ) from error
    except (TypeError, ValueError) as error:
        raise GradingError(f"the instructions {', '.join(names)} with {settings}: {error}.") from error
    return float(scores.binary_strict)
