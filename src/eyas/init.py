"""`eyas init`: a commented recipe with defaults that fit the sizes of the two models and of the data."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.console import Console

from eyas.errors import RecipeError
from eyas.planning import size_of
from eyas.preflight import check_recipe_pair
from eyas.recipe import ModelSpec, parse_recipe
from eyas.storage.artifacts import atomic_path
from eyas.storage.models import materialise
from eyas.storage.tokenization import load_tokenizer
from eyas.tasks.files import read_jsonl

LEARNING_RATES = ((5e6, 2e-3), (50e6, 5e-4), (300e6, 1e-4), (700e6, 3e-5), (float("inf"), 1e-5))
"""(largest student, learning rate): 1e-5 at 1 B is that of arXiv 2605.05940, 2e-3 the quickstart's; by size between."""
LABEL_SHARE = 0.3
"""Share of a file's training examples whose answers are used; distillation needs the others' prompts only."""
COUNT_LINES = 200_000
"""Lines of a data file that are read to count it."""


def write_recipe(path: Path, *, student: str, teacher: str, data: str, thinking: str | None) -> None:
    """Look at both models and the data, write a recipe to `path`, and check that it is valid.

    Raises: RecipeError, if `path` exists; ModelError, PairMismatch or DataError, as a run would.
    """
    if path.exists():
        raise RecipeError(f"{path}: exists already. Choose another name with --to, or delete it.")
    with TemporaryDirectory() as scratch:
        paths = {}
        for role, origin in {"student": student, "teacher": teacher}.items():
            materialise(ModelSpec.model_validate({"from": origin}), Path(scratch) / role, seed=0)
            paths[role] = Path(scratch) / role / "model"
        sizes = {role: size_of(found) for role, found in paths.items()}
        template = str(load_tokenizer(paths["student"]).chat_template or "")
        known, answered, reasoned = _describe(data)
        rate = next(rate for largest, rate in LEARNING_RATES if sizes["student"].parameters <= largest)
        tiny = sizes["student"].parameters < 5e6
        environment = Environment(
            loader=PackageLoader("eyas", "."), undefined=StrictUndefined, trim_blocks=True, autoescape=False
        )  # YAML, not HTML
        text = environment.get_template("recipe.yaml.jinja").render(
            name=path.stem,
            student=json.dumps(student),
            teacher=json.dumps(teacher),
            millions={role: f"{size.parameters / 1e6:,.1f}" for role, size in sizes.items()},
            data=json.dumps(data),
            thinking=thinking or _thinking_of(template),
            labelled=max(1, round((answered if answered < known else known * LABEL_SHARE) * 0.85)),
            unlabelled=max(1, round((known - answered if answered < known else known * (1 - LABEL_SHARE)) * 0.85)),
            validation=min(300, max(1, round(known * 0.05))),
            test=min(2000, max(1, round(known * 0.1))),
            reasoned=reasoned,
            rate=f"{rate:.0e}",
            batch=128 if tiny else 32,
            tokens=48 if tiny else 512,
            micro=64 if tiny else 4,
            generation=512 if tiny else 64,
        )
        recipe = parse_recipe(_yaml(text), where=str(path))
        report = check_recipe_pair(recipe, paths)
    with atomic_path(path) as draft:
        draft.write_text(text)
    console = Console(highlight=False, soft_wrap=True)
    for line in report.lines():
        console.print(line)
    console.print(f"Wrote {path}. Next: eyas plan {path}, eyas run {path} --limit 8, eyas run {path}")


def _yaml(text: str) -> dict[str, object]:
    import yaml

    loaded: dict[str, object] = yaml.safe_load(text)
    return loaded


def _describe(data: str) -> tuple[int, int, bool]:
    """(examples, how many with an answer, whether any has reasoning) of a JSON Lines file or `builtin:arithmetic`."""
    if data == "builtin:arithmetic":
        return 10_000, 10_000, True
    known = answered = 0
    reasoned = False
    for known, example in enumerate(read_jsonl(Path(data).expanduser(), grader="numeric"), start=1):
        answered += example.answer is not None
        reasoned = reasoned or example.reasoning is not None
        if known >= COUNT_LINES:
            break
    return known, answered, reasoned


def _thinking_of(template: str) -> str:
    if "enable_thinking" in template:
        return "qwen3"
    return "pangu" if "[unused16]" in template or "/no_think" in template else "plain"
