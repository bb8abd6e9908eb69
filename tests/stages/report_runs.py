"""A small finished run, written as the stages would write it, for the report to read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eyas.accuracy import accuracy, breakdown, by_mode, pass_at
from eyas.recipe import Recipe, ReportStage, Stage, expand, parse_recipe
from eyas.records import MODES, Example, Mode, SequenceRecord
from eyas.stages import report
from eyas.storage.artifacts import Artifact, StageClock, seal
from eyas.storage.context import SilentProgress, StageContext
from eyas.storage.shards import write_shard

N = 200
HOSTILE = "<script>alert(1)</script>"
ROLES = {
    "base": "student",
    "sft": "sft",
    "control": "control",
    "control_seconds": "control-seconds",
    "seqkd": "seqkd",
    "distilled": "distill",
    "teacher": "teacher",
}
RIGHT: Mapping[str, tuple[range, range]] = {
    "base": (range(30, 50), range(20, 44)),
    "sft": (range(120), range(64)),
    "control": (range(10, 144), range(4, 94)),
    "control_seconds": (range(10, 150), range(4, 98)),
    "seqkd": (range(4, 154), range(2, 92)),
    "distilled": (range(160), range(98)),
    "teacher": (range(184), range(130)),
}
"""Role -> which of the N examples it gets right, in reasoning and in fast mode."""
MADE_ON = {"cpu": "Testium 3000", "cores": 2, "memory_gib": 15.6, "python": "3.11.2", "torch": "2.9.0", "device": "cpu"}


def recipe(*, without: tuple[str, ...] = ()) -> Recipe:
    stages: list[dict[str, Any]] = [
        {"type": "prepare", "source": {"type": "arithmetic"}, "labelled": 100, "unlabelled": 300, "test": N},
        {"type": "sft", "name": "sft-reasoning"},
        {"type": "sft", "name": "sft", "model": "sft-reasoning", "modes": {"reasoning": 3, "fast": 1}},
        {
            "type": "distill",
            "model": "sft",
            "rounds": 2,
            "rollout": {"prompts": "all", "samples_per_prompt": 4},
            "curriculum": {"weight": "frontier", "window": {}},
        },
        {"type": "sft", "name": "control", "model": "sft", "match_tokens": "distill", "select": "best"},
        {"type": "sft", "name": "control-seconds", "model": "sft", "match_seconds": "distill"},
        {"type": "synthesize"},
        {"type": "rollout", "name": "teacher-text", "model": "teacher", "prefix": "teacher"},
        {"type": "sft", "name": "seqkd", "model": "sft", "sequences": "teacher-text", "match_tokens": "distill"},
        {"type": "evaluate", "models": {role: name for role, name in ROLES.items() if role not in without}},
        {"type": "report"},
    ]
    gone = {ROLES[role] for role in without if role not in ("base", "sft", "teacher")}
    kept = [stage for stage in stages if stage.get("name", stage["type"]) not in gone]
    return parse_recipe(
        {
            "name": "nano",
            "description": "Arithmetic with few labels & many prompts.",
            "student": "builtin:nano-student",
            "teacher": "builtin:nano-teacher",
            "stages": kept,
        }
    )


def examples() -> list[Example]:
    made = []
    for number in range(N):
        prompt = f"Add {number}+7-2 {HOSTILE}" if number % 2 else f"{number}+7"
        level = "3 terms" if number % 2 else "2 terms"
        answer = str(number + 7 - 2 * (number % 2))
        made.append(
            Example(key=f"k{number}", prompt=(("user", prompt),), answer=answer, reasoning=f"{number}+7={number + 7}",
                    level=level, origin="sums" if number < N // 2 else "more sums")
        )  # fmt: skip
    return made


def write_run(
    root: Path,
    *,
    right: Mapping[str, tuple[range, range]] = RIGHT,
    without: tuple[str, ...] = (),
    bare: bool = False,
    samples: int = 1,
) -> tuple[dict[str, Any], str]:
    """Write every artifact, run the report stage, return `summary.json` and `report.html`.

    `samples` answers to every example, of which those after the first are right only where it is and the number even.
    `bare`: no off-task prompts, no divergence, no levels, no sources, no logs, nothing dropped.
    """
    made_from = recipe(without=without)
    stages = expand(made_from)
    done: dict[str, Artifact] = {}
    for name in ("student", "teacher"):
        facts = {"parameters": 1, "bytes": 4}
        done[name] = _seal(root / name, kind="model", facts=facts, seconds=0.5)
    for at, stage in enumerate(stages):
        if not isinstance(stage, ReportStage):
            directory = root / stage.name
            directory.mkdir(parents=True)
            facts = _write(stage, directory, right=right, bare=bare, samples=samples)
            done[stage.name] = _seal(directory, kind=stage.type, facts=facts, seconds=10.0 + at)
    directory = root / "report"
    directory.mkdir()
    context = StageContext(
        recipe=made_from, directory=directory, inputs=done, clock=StageClock(directory), progress=SilentProgress()
    )
    stage = stages[-1]
    if not isinstance(stage, ReportStage):
        raise TypeError(stage)
    report.run(stage, context)
    return json.loads((directory / "summary.json").read_text()), (directory / "report.html").read_text()


def _seal(directory: Path, *, kind: str, facts: dict[str, Any], seconds: float) -> Artifact:
    directory.mkdir(parents=True, exist_ok=True)
    return seal(
        directory, stage=kind, fingerprint=directory.name, config={}, inputs={}, facts=facts, seconds=seconds,
        made_on=MADE_ON,
    )  # fmt: skip


def _write(
    stage: Stage, directory: Path, *, right: Mapping[str, tuple[range, range]], bare: bool, samples: int
) -> dict[str, Any]:  # fmt: skip
    if stage.type == "prepare":
        write_shard(directory / "examples" / "test", 0, examples(), kind=Example)
        counts = {"labelled": 100, "unlabelled": 300, "validation": 50, "test": N, "off_task": 0 if bare else 20}
        found: dict[str, Any] = {
            "counts": counts,
            "dropped": {} if bare else {"near_duplicate": 7, "near_evaluation": 2},
        }
        if not bare:
            repeat = {"id": "00000000000000aa", "of": "00000000000000bb", "text": f"twice {HOSTILE}", "of_text": "once"}
            leak = {"id": "00000000000000cc", "of": "00000000000000dd", "text": "trained", "of_text": "held out"}
            rows = [{"reason": "near_duplicate", **repeat}, {"reason": "near_evaluation", **leak}]
            found |= {"dropped_examples": rows, "excluded_ids_not_drawn": 5}
        return found | {"test_answers_rejected_by_their_grader": 0 if bare else 4}
    if stage.type == "rollout":
        by_mode = {"sequences": 300, "mean_completion_tokens": 17.5, "truncated": 0.01, "graded": 0, "pass_rate": None}
        fast = by_mode | {"mean_completion_tokens": 3.0, "graded": 90, "pass_rate": 0.5}
        return {"sequences": 600, "tokens": 20_000, "completion_tokens": 9_000, "reasoning": by_mode, "fast": fast}
    if stage.type == "synthesize":
        return {
            "sequences": 500, "tokens": 20_000, "completion_tokens": 6_000, "sampled": 4_800, "verified": 0,
            "agreed": 500, "dropped": {"no_agreement": 100}, "mean_agreement": 0.807,
            "mean_completion_tokens_sampled": 14.5,
        }  # fmt: skip
    if stage.type == "score":
        second = ".2." in stage.name
        return {"tokens": 20_000, "completion_tokens": 3_000 if second else 1_000, "bytes": 60_000,
                "bytes_per_token": 20.0 if second else 60.0, "mean_captured_mass": 0.99 if second else 0.95,
                "p01_captured_mass": 0.7, "entries_per_token": 9.8}  # fmt: skip
    if stage.type in ("sft", "distill"):
        if not bare:
            rows = [
                {"step": step, "loss": 3 / step**0.5, "kd": 0.9 / step**0.5, "ce": 2 / step**0.5}
                for step in range(1, 101)
            ]
            (directory / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        chosen = {"selected_step": 80, "candidates": [{"step": 40, "accuracy": 0.6}, {"step": 80, "accuracy": 0.68}]}
        facts = {"tokens": 50_000, "steps": 100, "sequences": 600}
        if not bare:
            facts["dropped"] = {"longer_than_max_length": 3, "truncated": 11, "graded_wrong": 0} | (
                {"pass_rate_below_window": 30, "pass_rate_above_window": 9} if stage.type == "distill" else {}
            )
            if stage.type == "distill":
                facts["staleness"] = {
                    "before": {"value": -0.0001, "low": -0.0003, "high": 0.0002, "n": 128},
                    "after": {"value": 0.114, "low": 0.0884, "high": 0.1433, "n": 128},
                    "sampling": {"temperature": 1.0, "top_p": 1.0, "max_completion_tokens": 48},
                }
        facts["pass_rates"] = {
            "graded": 123, "pseudo": 0, "unknown": 477, "trained_without": 460, "weights": [0.63, 1.13],
            "distribution": {"reasoning": {"0": 40, "0.25": 20, "1": 10}, "fast": {"0": 53}},
        }  # fmt: skip
        return facts | (chosen if stage.type == "sft" and stage.select == "best" and not bare else {})
    if stage.type == "evaluate":
        (role,) = stage.models
        return _evaluate(role, directory, right=right[role], bare=bare, samples=samples)
    raise TypeError(stage)


def settings(role: str, *, samples: int) -> dict[str, Any]:
    return {
        "graders": ["exact", "numeric"],
        "grading_version": 7,
        "prompts_sha256": {"reasoning": "ab" * 32, "fast": ("cd" if role == "teacher" else "ef") * 32},
        "template_sha256": "01" * 32,
        "thinking": {"open": "<think>\n", "close": "\n</think>\n\n", "switch": ""},
        "sampling": {
            "temperature": 0.7 if samples > 1 else 0.0, "top_p": 1.0, "min_p": 0.0, "max_completion_tokens": 256,
        },
        "samples_per_prompt": samples,
    }  # fmt: skip


def _evaluate(role: str, directory: Path, *, right: tuple[range, range], bare: bool, samples: int) -> dict[str, Any]:
    held_out = examples()
    records = [
        _answer(example, mode, number in right[MODES.index(mode)] and (not sample or number % 2 == 0), sample=sample)
        for mode in MODES
        for number, example in enumerate(held_out)
        for sample in range(samples)
    ]
    write_shard(directory / "predictions", 0, records[: N // 2], kind=SequenceRecord)
    write_shard(directory / "predictions", 1, records[N // 2 :], kind=SequenceRecord)
    parts = by_mode(records)
    facts = {
        "role": role,
        "parameters": 640_000 if role == "teacher" else 80_000,
        "bytes": 2_560_000 if role == "teacher" else 320_000,
        "settings": settings(role, samples=samples),
        "accuracy": {mode: accuracy(part) for mode, part in parts.items()},
        "pass_at_k": {mode: pass_at(part, range(1, samples + 1)) for mode, part in parts.items()},
        "by_level": {},
        "by_source": {},
        "bulk": {"tokens_per_second": 3500.0, "batch_size": 64},
    }
    if bare:
        return facts | {"off_task": {"accuracy": {}, "nll": None}, "divergence": {}}
    known = 18 if role == "base" else 12
    off_task = [_answer(example, mode, n < known) for mode in MODES for n, example in enumerate(held_out[:20])]
    write_shard(directory / "off_task", 0, off_task, kind=SequenceRecord)
    divergence = 0.02 + 0.5 * (1 - accuracy(parts["reasoning"])["value"])
    return facts | {
        "by_level": breakdown(records, {example.id: example.level for example in held_out}),
        "by_source": breakdown(records, {example.id: example.origin for example in held_out}),
        "too_long": 6 if role == "base" else 0,
        "off_task": {"accuracy": {mode: accuracy(part) for mode, part in by_mode(off_task).items()}, "nll": 1.25},
        "divergence": {key: {"value": divergence, "tokens": 4_000} for key in ("teacher", "student")},
    }


def _answer(example: Example, mode: Mode, right: bool, *, sample: int = 0) -> SequenceRecord:
    answer = example.answer if right else HOSTILE
    thinking = f"<think>\n{example.reasoning} <img src=x onerror=alert(2)>\n</think>\n\n" if mode == "reasoning" else ""
    return SequenceRecord(
        example_id=example.id, sample=sample, mode=mode, source="student", prompt_ids=[1, 2, 3], completion_ids=[4] * 5,
        finish_reason="stop", text=f"{thinking}{answer}", answer=answer, grade=1.0 if right else 0.0,
    )  # fmt: skip
