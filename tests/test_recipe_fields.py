"""Every field of a recipe says what it does, and something reads it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from jinja2 import Environment, nodes

from eyas.recipe import Recipe
from eyas.recipe.specs import Spec

SOURCE = Path(__file__).parents[1] / "src" / "eyas"
DECLARING = (
    "specs",
    "models",
    "sources",
    "curriculum",
    "stage",
    "stages",
    "training",
    "loss",
    "score",
    "selection",
    "ablation",
)
DECLARED_IN = {SOURCE / "recipe" / f"{name}.py" for name in DECLARING}


def specs(of: type[Spec] = Spec) -> Iterator[type[Spec]]:
    for spec in of.__subclasses__():
        yield spec
        yield from specs(spec)


FIELDS = sorted({f"{spec.__name__}.{name}" for spec in specs() for name in spec.model_fields})
CLASSES = {spec.__name__: spec for spec in specs()}


@cache
def names_read() -> frozenset[str]:
    """Attributes read anywhere but where the fields are declared, in modules and in the report's template."""
    modules = [ast.parse(path.read_text()) for path in SOURCE.rglob("*.py") if path not in DECLARED_IN]
    templates = [Environment().parse(path.read_text()) for path in SOURCE.rglob("template.html")]
    return frozenset().union(
        *(attributes_read(module) for module in modules),
        *({node.attr for node in template.find_all(nodes.Getattr)} for template in templates),
    )


def attributes_read(module: ast.AST) -> set[str]:
    """Names of attributes; a call such as `text.split()` or `rows.count(row)` reads no field."""
    calls = (node.func for node in ast.walk(module) if isinstance(node, ast.Call))
    methods = {
        id(func) for func in calls
        if isinstance(func, ast.Attribute) and any(hasattr(kind, func.attr) for kind in (str, list, dict))
    }  # fmt: skip
    return {
        node.attr for node in ast.walk(module)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and id(node) not in methods
    }  # fmt: skip


def test_a_call_of_a_method_of_text_lists_and_mappings_is_no_reading_of_a_field() -> None:
    text = "text.split(','); rows.count(row); table.items(); held_out.count; spec.sampling.problem(); spec.seed = 1"
    assert attributes_read(ast.parse(text)) == {"count", "sampling", "problem"}


def test_the_walk_finds_every_class_of_a_recipe() -> None:
    assert len(FIELDS) > 100
    assert {"Recipe.seed", "LoraSpec.rank", "HubSource.revision", "EvaluateStage.models"} <= set(FIELDS)
    assert CLASSES["Recipe"] is Recipe


@pytest.mark.parametrize("field", [field for field in FIELDS if not field.endswith(".type")])
def test_every_field_says_what_it_does(field: str) -> None:
    spec, name = field.split(".")
    description = CLASSES[spec].model_fields[name].description
    assert description, f"{field} has no docstring: write below it what it does and where its default comes from"


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_is_read_by_something(field: str) -> None:
    assert field.split(".")[1] in names_read(), f"nothing in src/eyas reads {field}: use it, or take it out"
