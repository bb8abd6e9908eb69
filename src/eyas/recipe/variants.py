"""From one recipe to the recipes of its variants: a grid of `--vary`, or what the recipe declares."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eyas.errors import RecipeError
from eyas.recipe.load import Recipe, expand, recipe_from
from eyas.recipe.override import assign, parse_yaml
from eyas.recipe.stages import EvaluateStage, ReportStage

LONGEST_NAME = 80
"""Characters of a variant of a grid in its runs' names: a file system takes 255 bytes in all."""


@dataclass(frozen=True)
class Variant:
    """The recipe with some fields changed."""

    name: str
    """Part of its runs' names; empty where there is nothing to tell apart."""
    label: str
    """As on the page."""
    changes: Mapping[str, Any]
    """Dotted key -> value."""


def variants_of(recipe: Recipe, *, vary: Sequence[str] = (), only: Sequence[str] = ()) -> list[Variant]:
    """The grid of `vary`, else the variants that the recipe declares, else the recipe itself; of these `only` some.

    The first one is the baseline.
    Raises: RecipeError, for a `vary` without values, a key that is varied twice, or an unknown name in `only`.
    """
    if vary:
        found = _grid(vary)
    elif recipe.ablation is not None:
        found = [Variant(item.name, item.name, item.set_) for item in recipe.ablation.variants]
    else:
        found = [Variant("", recipe.name, {})]
    names = [variant.name for variant in found]
    if unknown := [name for name in only if name not in (*names, *(variant.label for variant in found))]:
        raise RecipeError(f"--only {unknown[0]}: no such variant; found: {', '.join(filter(None, names)) or 'none'}.")
    return [variant for variant in found if not only or {variant.name, variant.label} & set(only)]


def _grid(vary: Sequence[str]) -> list[Variant]:
    axes = [_axis(setting) for setting in vary]
    keys = [key for key, _ in axes]
    if len(set(keys)) < len(keys):
        raise RecipeError(f"--vary: each key once, with all its values; found {', '.join(keys)}.")
    if "seed" in keys:
        raise RecipeError("--vary seed: every variant is run with seeds 0 to --seeds minus one. Give --seeds alone.")
    short = [key.rpartition(".")[2] for key in keys]
    shown = short if len(set(short)) == len(short) else keys
    found: list[Variant] = []
    for values in itertools.product(*(values for _, values in axes)):
        label = ", ".join(f"{key}={text}" for key, (text, _) in zip(shown, values, strict=True))
        if label in [variant.label for variant in found]:
            raise RecipeError(f"--vary: {label} is given twice.")
        name = re.sub(r"[^A-Za-z0-9_]+", "-", label).strip("-")[:LONGEST_NAME].strip("-")
        taken = sum(variant.name.partition("--")[0] == name for variant in found)
        changes = {key: value for key, (_, value) in zip(keys, values, strict=True)}
        found.append(Variant(f"{name}--{taken + 1}" if taken else name, label, changes))
    return found


def _axis(setting: str) -> tuple[str, list[tuple[str, Any]]]:
    """A key and its values, each with its text."""
    where = f"--vary {setting}"
    key, equals, text = setting.partition("=")
    values = parse_yaml(f"[{text}]", where=where)
    if not equals or not values:
        raise RecipeError(f"{where}: expected key=value,value, for instance stages.distill.prefix=label,teacher.")
    texts = [text.strip() for text in text.split(",")]
    if len(texts) != len(values):  # lists or mappings among them
        texts = [str(value) for value in values]
    return key, list(zip(texts, values, strict=True))


def variant_recipe(data: Mapping[str, Any], variant: Variant, *, seed: int, where: str, limit: int | None) -> Recipe:
    """The recipe of one variant and seed, under a run name of its own, without the stages that it does not need.

    Raises: RecipeError, naming the variant, if the changed recipe is not valid.
    """
    where = f"{where}, variant {variant.label!r}" if variant.changes else where
    changed = copy.deepcopy(dict(data))
    for key, value in variant.changes.items():
        assign(changed, key, copy.deepcopy(value), where=f"{where}: set {key}")
    changed["seed"] = seed
    recipe = without_unused(recipe_from(changed, where=where, limit=limit), where=where)
    name = "-".join(filter(None, (recipe.name, variant.name, f"seed{seed}")))
    return recipe.model_copy(update={"name": name, "ablation": None})


def without_unused(recipe: Recipe, *, where: str) -> Recipe:
    """The recipe with the stages that its evaluations read, directly or not, and its report.

    Raises: RecipeError, if it evaluates nothing.
    """
    expanded = {stage.name: stage for stage in expand(recipe)}
    wanted = [stage.name for stage in expanded.values() if isinstance(stage, EvaluateStage)]
    if not wanted:
        raise RecipeError(f"{where}: nothing is evaluated, so there is nothing to compare. Add a stage evaluate.")
    read: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name not in read and name in expanded:
            read.add(name)
            wanted += [found for found, _ in expanded[name].references().values()]
    names = [stage.name for stage in recipe.stages]
    keep = {_written(name, names) for name in read}
    stages = tuple(stage for stage in recipe.stages if stage.name in keep or isinstance(stage, ReportStage))
    return recipe.model_copy(update={"stages": stages})


def _written(name: str, written: Sequence[str]) -> str:
    """The stage as written that a stage belongs to: `distill` for `distill.1.rollout`; of pass rates, the model's."""
    fits = [stage for stage in written if name == stage or name.startswith(f"{stage}.")]
    return max(fits, key=len, default=name)
