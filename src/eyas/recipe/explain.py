"""What is wrong with a recipe, key by key, in words that say what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from eyas.recipe.specs import Spec

Place = tuple[str, ...]
"""Where in a recipe something stands: keys and, in a union, the `type`; (stages, sft, training) for any sft stage."""
HOMES = 3
"""At most so many places are named as those where a misplaced key belongs."""


def explain(error: ValidationError, root: type[Spec]) -> list[str]:
    """One line for each mistake in a `root`: where it is, what was found, and what is possible there."""
    places = dict(_places(root))
    lines = []
    for item in error.errors():
        *above, last = item["loc"] or ("recipe",)
        if item["type"] == "extra_forbidden":
            place = tuple(part for part in above if isinstance(part, str))
            message = f"unknown key {last!r}; {_cure(str(last), place, places)}"
        else:
            found = "" if item["type"] == "missing" else f" (found {str(item.get('input'))[:80]!r})"
            message = item["msg"].removeprefix("Value error, ") + found
        lines.append(f"  {'.'.join(str(part) for part in (*above, last))}: {message}")
    return lines


def _cure(key: str, place: Place, places: Mapping[Place, type[Spec]]) -> str:
    """Where the key belongs, the key that was meant, or else every key that is known at this place."""
    known = list(_fields(places[place]))
    near = difflib.get_close_matches(key, known, n=1)
    cures = [f"did you mean {near[0]!r}?"] if near else []
    homes = [home for home, spec in places.items() if key in _fields(spec)]
    if homes:
        closest = max(_shared(home, place) for home in homes)
        named = [".".join(home) or "the top level" for home in homes if _shared(home, place) == closest]
        cures.insert(0, f"it belongs to {' or '.join(named[:HOMES])}{', …' * (len(named) > HOMES)}")
    return "; or ".join(cures) or f"known here: {', '.join(known)}"


def _shared(home: Place, place: Place) -> int:
    """How many levels two places have in common."""
    return max(depth for depth in range(len(place) + 1) if home[:depth] == place[:depth])


def _places(spec: type[Spec], at: Place = ()) -> Iterator[tuple[Place, type[Spec]]]:
    """Every place in a `spec` that has keys, with the class that says which."""
    yield at, spec
    for key, field in _fields(spec).items():
        options = _specs_in(field.annotation)
        for option in options:
            tag = get_args(option.model_fields["type"].annotation) if len(options) > 1 else ()
            yield from _places(option, (*at, key, *tag))


def _specs_in(annotation: Any) -> list[type[Spec]]:
    """The classes that an annotation allows, through unions, tuples and `Annotated`."""
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return [annotation]
    return [spec for part in get_args(annotation) for spec in _specs_in(part)]


def _fields(spec: type[Spec]) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in spec.model_fields.items()}
