"""Which graders there are: the names that a source may give, and what each needs of an example."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator

_FUNCTION = re.compile(r"(?P<path>.+\.py):(?P<function>[A-Za-z_][A-Za-z0-9_]*)")


@dataclass(frozen=True)
class GraderSpec:
    """What is known of a grader without loading it."""

    name: str
    needs_metadata: bool = False
    """It checks by the example's metadata, not by its reference answer alone."""
    accepts_reference: bool = True
    """The reference answer is itself an answer, so the grader must call it right."""


GRADERS: dict[str, GraderSpec] = {
    spec.name: spec
    for spec in (
        GraderSpec("numeric"),
        GraderSpec("maths"),
        GraderSpec("exact"),
        GraderSpec("normalised"),
        GraderSpec("choice"),
        GraderSpec("regex", accepts_reference=False),
        GraderSpec("json"),
        GraderSpec("reasoning_gym", needs_metadata=True),
        GraderSpec("instructions", needs_metadata=True, accepts_reference=False),
        GraderSpec("code", needs_metadata=True),
    )
}


def grader_spec(grader: str) -> GraderSpec | None:
    """What is known of a grader; None if there is none of this name."""
    if function_of(grader) is not None:
        return GraderSpec(grader, needs_metadata=True, accepts_reference=False)
    return GRADERS.get(grader)


def function_of(grader: str) -> tuple[str, str] | None:
    """File and function of a grader of the user's own, `path/to/file.py:function`; None for any other name."""
    found = _FUNCTION.fullmatch(grader)
    return None if found is None else (found["path"], found["function"])


def unknown_grader(grader: str) -> str:
    """What to tell a user whose grader does not exist."""
    near = difflib.get_close_matches(grader, GRADERS, n=1)
    meant = f" Did you mean {near[0]!r}?" if near else ""
    known = ", ".join(sorted(GRADERS))
    return (
        f"grader {grader!r} does not exist; known: {known}, or a function of your own as `path/to/file.py:function`."
        f"{meant}"
    )


def _known(grader: str) -> str:
    if grader_spec(grader) is None:
        raise ValueError(unknown_grader(grader))
    return grader


GraderName = Annotated[str, AfterValidator(_known)]
"""A grader's name, or `path/to/file.py:function`."""
