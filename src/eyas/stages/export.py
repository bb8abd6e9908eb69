"""Export: one model as one file for a device, which must be near the model and lose no more accuracy than allowed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from eyas.accuracy import accuracy, by_mode
from eyas.engines.exported import ExportedEngine, open_fastest
from eyas.engines.respondent import Job, Respondent
from eyas.errors import ExportError
from eyas.export.card import CardResult, ModelCard
from eyas.export.checked import export_checked
from eyas.export.formats import Choices, require_room
from eyas.recipe import NOT_RUN_HERE, EvaluateStage, ExportStage, ModelSpec, PrepareStage, expand
from eyas.records import Example, Mode, SequenceRecord
from eyas.stats import PairedDifference, paired_difference, shown_below
from eyas.storage.artifacts import read_json, write_json
from eyas.storage.context import StageContext
from eyas.storage.hashing import sha256_of
from eyas.storage.origins import read_config
from eyas.storage.shards import read_records, shard_path, write_shard
from eyas.storage.tokenization import load_tokenizer, stop_ids

SHARD = 128
"""Answers per shard, a closed unit of work: minutes with a model of some hundred million parameters."""
EXPORTED = "exported.json"
"""Written once the file has passed its parity gate, with checksums: an interrupted stage goes on from there."""


def run(stage: ExportStage, context: StageContext) -> dict[str, Any]:
    """Write the file and `predictions/`, its answers to the held-out examples.

    Raises: ExportError with the numbers, if a gate fails or the model cannot be written in this format.
    """
    (role,), (format_,) = stage.models, stage.formats
    examples = list(read_records(context.inputs["data"].path / "examples" / "test", kind=Example))[: stage.examples]
    reference = list(read_records(context.inputs["evaluation"].path / "predictions", kind=SequenceRecord))
    facts = _written(stage, context, reference)
    if format_ in NOT_RUN_HERE:
        equal = context.inputs["evaluation"].facts["accuracy"] if format_ == "safetensors" else {}
        return {"role": role, **facts, "format": format_, "accuracy": equal, "against_model": {}}
    answers = _answers(stage, context, examples, path=context.directory / facts["file"], reference=reference)
    losses = against_model(answers, reference)
    made = {
        "role": role,
        **facts,
        "format": format_,
        "accuracy": {mode: accuracy(part) for mode, part in by_mode(answers).items()},
        "against_model": {mode: asdict(difference) for mode, difference in losses.items()},
    }
    judge(stage, made)
    return made


def judge(stage: ExportStage, facts: Mapping[str, Any]) -> None:
    """Pass a file, made now or before, that by its facts is not shown to lose more than the stage allows.

    Raises: ExportError with the numbers.
    """
    for mode, found in facts["against_model"].items():
        what = f"{facts['role']} as {facts['format']}"
        require_accuracy(PairedDifference(**found), what=what, mode=mode, max_loss=stage.max_loss)


def against_model(
    answers: Sequence[SequenceRecord], reference: Sequence[SequenceRecord]
) -> dict[Mode, PairedDifference]:
    """Accuracy of a file's answers minus that of the model itself on the same examples, by mode."""
    right = {(item.mode, item.example_id): _is_right(item) for item in reference}
    return {
        mode: paired_difference([_is_right(item) for item in part], [right[mode, item.example_id] for item in part])
        for mode, part in by_mode(answers).items()
    }


def require_accuracy(difference: PairedDifference, *, what: str, mode: Mode, max_loss: float) -> None:
    """Pass a file that is not shown to lose more than `max_loss`, a share: 0.02 is 2 points.

    Raises: ExportError with the numbers.
    """
    if shown_below(difference, -max_loss):
        raise ExportError(
            f"{what}: {100 * difference.difference:+.1f} points of accuracy in {mode} mode "
            f"[{100 * difference.low:+.1f}, {100 * difference.high:+.1f}] against the model itself on "
            f"{difference.n:,} held-out examples, allowed {-100 * max_loss:+.1f}. Take the format out of `formats`, or "
            "raise `max_loss`."
        )


def _is_right(item: SequenceRecord) -> float:
    return float(item.grade is not None and item.grade >= 1.0)


def _written(stage: ExportStage, context: StageContext, reference: Sequence[SequenceRecord]) -> dict[str, Any]:
    """Facts of the file, which is written and compared with the model unless an earlier attempt's is there, whole."""
    (role,), (format_,) = stage.models, stage.formats
    kept = context.directory / EXPORTED
    if kept.is_file():
        before: dict[str, Any] = read_json(kept)
        if "sha256" in before and _is_whole(context.directory, before["sha256"]):  # none in those of older versions
            found: dict[str, Any] = before["facts"]
            return found
    context.progress.start(1, unit="files")
    checked = export_checked(
        format_,
        context.model_path(),
        directory=context.directory,
        name=role,
        prompts=in_turns(reference)[: stage.parity_prompts],
        choices=Choices(stage.context_length, stage.prefill_lengths, card=model_card(role, context)),
    )
    context.progress.advance()
    facts = {"file": str(checked.path.relative_to(context.directory)), **checked.facts()}
    parts = [checked.path] if checked.path.is_file() else sorted(filter(Path.is_file, checked.path.rglob("*")))
    sums = {str(part.relative_to(context.directory)): sha256_of(part) for part in parts}
    write_json(kept, {"facts": facts, "sha256": sums})
    context.clock.save()
    return facts


def _is_whole(directory: Path, sums: Mapping[str, str]) -> bool:
    """Whether every file is as it was when it passed its gate: of a directory, one may be gone or damaged."""
    return all((directory / name).is_file() and sha256_of(directory / name) == digest for name, digest in sums.items())


def model_card(role: str, context: StageContext) -> ModelCard:
    """The card of a published model: its recipe, what it was trained on, what it reached."""
    recipe, facts = context.recipe, context.inputs["evaluation"].facts
    sources = [stage.source for stage in recipe.stages if isinstance(stage, PrepareStage)]
    return ModelCard(
        name=f"{recipe.name}: {role}",
        summary=recipe.description,
        base_model=published_name((recipe.teacher or recipe.student) if role == "teacher" else recipe.student),
        recipe=yaml.safe_dump(
            recipe.model_dump(by_alias=True, mode="json", exclude_unset=True), sort_keys=False, allow_unicode=True
        ),
        data=tuple(yaml.safe_dump(source.model_dump(mode="json", exclude_unset=True), default_flow_style=True).strip()
                   for source in sources),
        results=tuple(
            CardResult(model=role, mode=mode, value=found["value"], low=found["low"], high=found["high"],
                       n=int(found["n"]), this=True)
            for mode, found in facts["accuracy"].items()
        ),
    )  # fmt: skip


def published_name(spec: ModelSpec) -> str | None:
    """A hub id or builtin; of a directory of this machine its name alone: a card is for others."""
    return Path(spec.from_).name if spec.from_ and Path(spec.from_).exists() else spec.from_


def in_turns(reference: Sequence[SequenceRecord]) -> list[list[int]]:
    """The prompts of the evaluation, one of each mode after the other."""
    parts = [[item.prompt_ids for item in part] for part in by_mode(reference).values()]
    return [ids for together in zip(*parts, strict=True) for ids in together]


def _answers(
    stage: ExportStage,
    context: StageContext,
    examples: Sequence[Example],
    *,
    path: Path,
    reference: Sequence[SequenceRecord],
) -> list[SequenceRecord]:
    """The file's answers in the evaluation's modes; shards of an earlier attempt are kept."""
    evaluation = _evaluation(stage, context)
    jobs: list[Job] = [(example, mode, 0) for mode in evaluation.modes for example in examples]
    directory = context.directory / "predictions"
    units = [(index, jobs[start : start + SHARD]) for index, start in enumerate(range(0, len(jobs), SHARD))]
    missing = [(index, unit) for index, unit in units if shard_path(directory, index) is None]
    context.progress.start(len(jobs), unit="answers", done=len(jobs) - sum(len(unit) for _, unit in missing))
    if missing:
        prompts = [item.prompt_ids for item in reference]
        room = max(map(len, prompts)) + evaluation.sampling.max_completion_tokens
        own = read_config(context.model_path()).get("max_position_embeddings") or room
        tokenizer = load_tokenizer(context.model_path())
        with open_fastest(path, min(prompts, key=len), context_length=min(own, room)) as runtime:
            require_room(runtime.context_length, needed=min(own, room), name=stage.name)
            respondent = Respondent(
                engine=ExportedEngine(runtime),
                tokenizer=tokenizer,
                stop=stop_ids(tokenizer, context.model_path()),
                thinking=context.recipe.thinking,
            )
            for index, unit in missing:
                made = respondent.answer(
                    unit, sampling=evaluation.sampling, source="student", seed=(), too_long="wrong"
                )
                write_shard(directory, index, made, kind=SequenceRecord)
                context.clock.save()
                context.progress.advance(len(unit))
    return list(read_records(directory, kind=SequenceRecord))


def _evaluation(stage: ExportStage, context: StageContext) -> EvaluateStage:
    found = next(item for item in expand(context.recipe) if item.name == stage.evaluation)
    if not isinstance(found, EvaluateStage):
        raise TypeError(f"{found.name} is a stage of type {found.type}, expected evaluate.")
    return found
