"""The model card of an exported model: YAML front matter that the hub reads, and the same for people."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.repocard import metadata_load

UNKNOWN = "unknown"
"""The hub's identifier for a licence that nobody has stated."""
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class CardResult:
    """One model's accuracy in one mode on the held-out examples."""

    model: str
    """What the table calls it: this model, the teacher, the control."""
    mode: str
    value: float
    low: float
    high: float
    """Share of right answers with its 95 % interval, all in [0, 1]."""
    n: int
    this: bool = False
    """Whether it is the exported model, whose results the front matter states."""


@dataclass(frozen=True)
class ModelCard:
    """What a card says that the weights do not: plain values, already in words."""

    name: str
    summary: str = ""
    """One sentence: what the model does."""
    base_model: str | None = None
    """Hub id or other name of the model it was trained from."""
    license: str | None = None
    """Identifier of the hub's list; None takes the model directory's, if its card states one."""
    recipe: str = ""
    """YAML, verbatim."""
    data: tuple[str, ...] = ()
    """Sources of the training examples."""
    dataset: str = "held-out examples"
    """What the results were measured on."""
    results: tuple[CardResult, ...] = ()
    training: tuple[str, ...] = ()
    """One sentence a training; empty takes the text of the model directory's own card."""
    limits: tuple[str, ...] = ()
    """What it should not be used for, as far as that is known."""


def card_text(card: ModelCard, model_dir: Path, *, dtype: str) -> str:
    """README.md of an exported model in `dtype`, made from the card and what the model directory says of itself."""
    stated = card.license or licence_of(model_dir)
    return (
        f"---\n{_front_matter(card, stated or UNKNOWN)}\n---\n\n"
        + "\n\n".join(
            [
                f"# {card.name}",
                *([card.summary] if card.summary else []),
                f"Weights in {dtype}, for `AutoModelForCausalLM.from_pretrained`; no code of its own. Made by eyas.",
                *_section("Results", _results(card)),
                *_section(
                    "How it was trained", "\n".join(f"- {line}" for line in card.training) or _history(model_dir)
                ),
                *_section("Data", "\n".join(f"- {line}" for line in card.data)),
                *_section("Use and limits", _limits(card)),
                *_section("Licence", _licence(card, stated)),
                *_section("Recipe", _fenced(card.recipe)),
            ]
        )
        + "\n"
    )


def licence_of(model_dir: Path) -> str | None:
    """The licence that a directory's card states; None if it has no readable card, or the card states none."""
    found = _metadata(model_dir).get("license")
    return found if isinstance(found, str) and found != UNKNOWN else None


def _metadata(model_dir: Path) -> dict[str, Any]:
    readme = model_dir / "README.md"
    try:
        return metadata_load(readme) or {} if readme.is_file() else {}
    except (ValueError, yaml.YAMLError):
        return {}


def _front_matter(card: ModelCard, licence: str) -> str:
    own = [result for result in card.results if result.this]
    data = ModelCardData(
        base_model=card.base_model if card.base_model and HUB_ID.fullmatch(card.base_model) else None,
        license=licence,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["eyas", "knowledge-distillation", "edge"],
        model_name=card.name if own else None,
        eval_results=[_measured(card, result) for result in own] or None,
    )
    return str(data.to_yaml()).strip()


def _measured(card: ModelCard, result: CardResult) -> EvalResult:
    return EvalResult(
        task_type="text-generation",
        dataset_type="held-out",
        dataset_name=card.dataset,
        metric_type="accuracy",
        metric_name=f"accuracy, {result.mode} mode",
        metric_value=result.value,
        metric_args={"low": result.low, "high": result.high, "n": result.n},
    )


def _section(title: str, text: str) -> list[str]:
    return [f"## {title}", text] if text else []


def _results(card: ModelCard) -> str:
    if not card.results:
        return ""
    rows = [
        f"| {'**' * result.this}{result.model}{'**' * result.this} | {result.mode} | {100 * result.value:.1f} "
        f"[{100 * result.low:.1f}, {100 * result.high:.1f}] | {result.n:,} |"
        for result in card.results
    ]
    head = f"Accuracy on {card.dataset}, in %, with 95 % intervals."
    return "\n".join([head, "", "| model | mode | accuracy | n |", "|---|---|---|---|", *rows])


def _history(model_dir: Path) -> str:
    """What the directory's own card says below its front matter and headings, where eyas wrote it."""
    readme = model_dir / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    body = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    if "eyas" not in body or "## " in body:
        return ""
    return "\n".join(line for line in body.splitlines() if not line.startswith("# ")).strip()


def _limits(card: ModelCard) -> str:
    known = (
        "Made for the task of its data, on a small device; what else its base model could do may be gone.",
        "Its answers can be wrong: the accuracies above hold for prompts like those they were measured on."
        if card.results
        else "Its answers can be wrong, and how often was not measured here.",
    )
    return "\n".join(f"- {line}" for line in (*known, *card.limits))


def _licence(card: ModelCard, stated: str | None) -> str:
    base = f" ({card.base_model})" if card.base_model else ""
    return stated or f"Unknown: see the base model{base}. Its licence binds this model too."


def _fenced(text: str) -> str:
    """A code block whose fence is longer than any in the text."""
    if not text:
        return ""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{fence}yaml\n{text.rstrip()}\n{fence}"
