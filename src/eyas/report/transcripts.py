"""Side-by-side answers of every model to a few held-out prompts, drawn by hash, not chosen."""

from __future__ import annotations

from dataclasses import dataclass

from eyas.recipe import Recipe
from eyas.records import Example, Mode, seed_for
from eyas.report.evidence import Evidence, Prediction
from eyas.storage.shards import read_records
from eyas.thinking import parse_completion


@dataclass(frozen=True)
class Answer:
    """One model's answer in one mode."""

    role: str
    mode: Mode
    right: bool | None
    answer: str
    thinking: str
    truncated: bool
    tokens: int


@dataclass(frozen=True)
class Transcript:
    """One prompt, its reference and what every model made of it."""

    prompt: str
    level: str
    reference: str
    reasoning: str
    answers: dict[str, list[Answer | None]]
    """Role -> an answer per mode of the report."""


def transcripts(evidence: Evidence, *, limit: int) -> list[Transcript]:
    """The first `limit` test examples in an order that only the recipe's seed and their ids decide."""
    if not evidence.roles or not limit:
        return []
    data = evidence.artifacts[evidence.evaluation(evidence.roles[0]).data]
    answered = {key[0] for key in evidence.predictions[evidence.roles[0]]}
    examples = (item for item in read_records(data.path / "examples" / "test", kind=Example) if item.id in answered)
    drawn = sorted(examples, key=lambda item: seed_for("transcripts", evidence.recipe.seed, item.id))[:limit]
    return [_transcript(evidence, example) for example in drawn]


def _transcript(evidence: Evidence, example: Example) -> Transcript:
    answers: dict[str, list[Answer | None]] = {}
    for role in evidence.roles:
        found = evidence.predictions[role]
        answers[role] = [_answer(evidence.recipe, role, mode, found.get((example.id, mode))) for mode in evidence.modes]
    several = len(example.prompt) > 1
    return Transcript(
        prompt="\n\n".join(f"{role}: {text}" if several else text for role, text in example.prompt),
        level=example.level,
        reference=example.answer or "",
        reasoning=example.reasoning or "",
        answers=answers,
    )


def _answer(recipe: Recipe, role: str, mode: Mode, prediction: Prediction | None) -> Answer | None:
    if prediction is None:
        return None
    parsed = parse_completion(prediction.text, thinking=recipe.thinking)
    return Answer(
        role=role,
        mode=mode,
        right=None if prediction.first_grade is None else prediction.first_grade >= 1.0,
        answer=parsed.answer,
        thinking=parsed.thinking or "",
        truncated=prediction.truncated,
        tokens=prediction.tokens,
    )
