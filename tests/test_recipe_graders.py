"""A grader's name is checked when the recipe is read, and every name that is allowed has a grader."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from eyas.grading import GRADERS as FUNCTIONS
from eyas.recipe import FileSource, HubSource
from eyas.recipe.graders import GRADERS, function_of


def test_every_name_has_a_grader() -> None:
    assert set(FUNCTIONS) == set(GRADERS)


def test_an_unknown_name_lists_the_known_ones_and_the_nearest() -> None:
    with pytest.raises(ValidationError, match=r"known: choice.*Did you mean 'numeric'"):
        FileSource.model_validate({"type": "file", "path": "x.jsonl", "grader": "numerical"})
    with pytest.raises(ValidationError, match="grader 'q' does not exist"):
        HubSource.model_validate({"type": "hub", "id": "a/b", "grader": "q"})


@pytest.mark.parametrize("grader", sorted(GRADERS))
def test_a_known_name_is_taken(grader: str) -> None:
    assert FileSource.model_validate({"type": "file", "path": "x.jsonl", "grader": grader}).grader == grader


def test_a_function_of_the_users_own_is_a_path_and_a_name() -> None:
    assert function_of("a/b c.py:grade_it") == ("a/b c.py", "grade_it")
    for name in ("numeric", "a.py", "a.py:", "a.txt:f", "a.py:f-g", ":f"):
        assert function_of(name) is None
