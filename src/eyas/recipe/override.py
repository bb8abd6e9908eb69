"""What the command line changes in a recipe before it is validated: `--set` and `--limit`."""

from __future__ import annotations

import difflib
from typing import Any

import yaml

from eyas.errors import RecipeError
from eyas.recipe.models import as_model_spec
from eyas.recipe.specs import RESERVED

SMOKE_STEPS = 2
"""Optimiser steps of a `--limit` run: the second one starts from an update, and a minute is enough for ten stages."""
EXPECTED = "expected key=value, for instance seed=1 or stages.sft.training.epochs=3."


def parse_yaml(text: str, *, where: str) -> Any:
    """The value of a YAML text, every alias a copy of its own: changing one place leaves the others.

    Raises: RecipeError, naming `where`.
    """
    try:
        return _copied(yaml.safe_load(text))
    except RecursionError as error:
        raise RecipeError(
            f"{where}: not valid YAML: an alias inside its own anchor, or nesting without end."
        ) from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist
        raise RecipeError(f"{where}: not valid YAML: {error}") from error


def _copied(value: Any) -> Any:
    """Unlike `copy.deepcopy`, which keeps one object that stands in two places one object."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def override(data: dict[str, Any], setting: str) -> None:
    """Apply `dotted.path=value` in place; a list of stages is addressed by stage name or type.

    Raises: RecipeError, naming the setting.
    """
    where = f"--set {setting}"
    path, equals, text = setting.partition("=")
    if not equals:
        raise RecipeError(f"{where}: {EXPECTED}")
    assign(data, path, parse_yaml(text, where=where), where=where)


def assign(data: dict[str, Any], path: str, value: Any, *, where: str) -> None:
    """Put `value` at the dotted `path` in place; a list of stages is addressed by stage name or type.

    Raises: RecipeError, naming `where`.
    """
    *parents, last = keys = path.split(".")
    if not all(keys):
        raise RecipeError(f"{where}: {EXPECTED}")
    if parents and parents[0] in RESERVED:
        data[parents[0]] = as_model_spec(data.get(parents[0]))
    node: Any = data
    for depth, key in enumerate(parents):
        node = _entry(node, key, at=".".join(parents[:depth]), where=where)
    if isinstance(node, list):
        raise RecipeError(
            f"{where}: {last!r} names a whole entry of a list; add the field to change, "
            f"or set the whole list: --set '{'.'.join(parents)}=[…]'."
        )
    node[last] = value


def _entry(node: Any, key: str, *, at: str, where: str) -> Any:
    """The mapping or list under a key, made where there is none, or a list's entry of that name or type."""
    here = f"{at}.{key}" if at else key
    if isinstance(node, list):
        names = [item.get("name") or item.get("type") if isinstance(item, dict) else item for item in node]
        known = [str(name) for name in names if name is not None]
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"found: {', '.join(known) or 'entries without a name'}."
            raise RecipeError(f"{where}: nothing in `{at}` is called {key!r}; {hint}")
        found = node[[str(name) for name in names].index(key)]
        hint = "write it as a mapping, for instance {type: sft}."
    else:
        if node.get(key) is None:
            node[key] = {}
        found = node[key]
        hint = f"set it whole, --set {here}=VALUE, where VALUE may be a {{mapping}}."
    if not isinstance(found, dict | list):
        raise RecipeError(f"{where}: `{here}` is {found!r}, a plain value without keys; {hint}")
    return found


def limited(data: dict[str, Any], limit: int) -> dict[str, Any]:
    """The recipe as a smoke run of its own name: `limit` examples a split, SMOKE_STEPS updates a training stage.

    Raises: RecipeError, for a limit below 2.
    """
    if limit < 2:
        raise RecipeError(f"--limit {limit}: at least 2 examples are needed.")
    data["name"] = f"{data['name']}-limit{limit}"
    for role in RESERVED:
        prune = data[role].get("prune") if isinstance(data.get(role), dict) else None
        if prune is not None:
            prune["examples"] = min(prune.get("examples", limit), limit)
    for stage in data["stages"]:
        if stage["type"] == "prepare":
            defaults = {"labelled": limit, "unlabelled": 0, "validation": limit, "test": limit, "off_task_count": limit}
            stage.update({key: min(stage.get(key, default), limit) for key, default in defaults.items()})
        if stage["type"] in ("sft", "distill"):
            training = {
                key: value for key, value in stage.get("training", {}).items() if key not in ("epochs", "steps")
            }
            stage.pop("match_seconds", None)  # a smoke run's seconds are start-up, and would buy a long training
            stage["training"] = {**training, "batch_size": min(training.get("batch_size", limit), limit)} | (
                {} if stage.get("match_tokens") else {"steps": SMOKE_STEPS}
            )
        if stage["type"] == "evaluate":
            stage["divergence_prompts"] = min(stage.get("divergence_prompts", limit), limit)
    return data
