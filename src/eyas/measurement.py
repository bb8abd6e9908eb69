"""`eyas evaluate MODEL --data FILE`: any causal language model on a file of examples, with intervals.

On disk, under the workspace: `evaluations/NAME-HASH/` with `predictions/` (shards of sequences) and `evaluation.json`;
the hash is of model, data and settings, so the same command continues and another setting goes elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from eyas import __version__, grading
from eyas.accuracy import by_mode, measured, too_long
from eyas.engines.respondent import Job, load_respondent
from eyas.errors import DataError, ModelError
from eyas.recipe import THINKING_FORMATS, ExecutionSpec, FileSource, ModelSpec, SamplingSpec, ThinkingSpec, parse_recipe
from eyas.records import MODES, Example, Mode, SequenceRecord
from eyas.stats import paired_difference
from eyas.storage.artifacts import atomic_path, read_json, write_json
from eyas.storage.asked import what_was_asked
from eyas.storage.context import Progress
from eyas.storage.hardware import describe_hardware
from eyas.storage.locks import locked
from eyas.storage.models import identity, materialise, parameter_count
from eyas.storage.process import prepare_process
from eyas.storage.shards import read_records, shard_path, write_shard
from eyas.storage.tokenization import load_tokenizer
from eyas.tasks import content_identities, load_examples
from eyas.thinking import format_of_template

FORMAT = 3
"""Version of what a prediction is and of which examples are asked; part of the hash that names the directory."""
SHARD = 256
"""Predictions per shard, a closed unit of work."""
MADE_ON = "made_on.json"
"""Machine and versions of the attempt that made the last answers."""

Shown = Callable[[str], AbstractContextManager[Progress]]
"""A progress display for a piece of work with this label."""


@dataclass(frozen=True)
class Measure:
    """What is asked of a model, and how."""

    data: FileSource
    sampling: SamplingSpec
    execution: ExecutionSpec
    limit: int | None = None
    """At most this many different examples that can be graded, drawn by a hash of the problem."""
    samples: int = 1
    """Answers per example and mode."""
    seed: int = 0
    thinking: str | None = None
    """Name of a thinking format; None takes the run's, else that of the chat template."""
    modes: tuple[Mode, ...] | None = None
    """None: both where the model's template or run knows thinking, else `reasoning`, which leaves the prompt alone."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation: `facts` are what `evaluation.json` says."""

    directory: Path
    facts: Mapping[str, Any]
    grades: Mapping[Mode, list[float]]
    """Share of right answers over the samples of each example, in the order of the examples."""


def evaluate_model(origin: str, measure: Measure, *, workspace: Path, shown: Shown) -> Evaluation:
    """Answer, grade and summarise; whole shards of an earlier attempt are kept.

    Raises: ModelError, DataError, GradingError, OutOfMemory; Locked, while another process is at the same evaluation.
    """
    spec = ModelSpec(from_=weights_of(origin), dtype=measure.dtype)
    examples, left_out = distinct_examples(measure)
    thinking, thinks = thinking_of(spec, measure.thinking, workspace)
    modes = measure.modes or (MODES if thinks else ("reasoning",))
    settings = _settings(spec, measure, thinking, modes)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    directory = workspace / "evaluations" / f"{slug(origin)}-{digest[:12]}"
    jobs: list[Job] = [
        (example, mode, sample) for mode in modes for example in examples for sample in range(measure.samples)
    ]
    with locked(directory, purpose="evaluate"), shown(origin) as progress:
        model = materialised(spec, workspace)
        _answer(jobs, model, thinking, measure, directory / "predictions", progress)
        records = list(read_records(directory / "predictions", kind=SequenceRecord))
        facts = {
            "model": origin,
            "data": measure.data.path,
            "eyas": __version__,
            "parameters": parameter_count(model),
            "examples": len(examples),
            **left_out,
            "too_long": too_long(records),
            "settings": settings,
            **what_was_asked(examples, records, tokenizer=load_tokenizer(model)),
            "made_on": read_json(directory / MADE_ON),
            **measured(records, examples, ks=_ks(measure.samples)),
        }
        with atomic_path(directory / "evaluation.json") as draft:
            draft.write_text(json.dumps(facts, indent=1, ensure_ascii=False))
    return Evaluation(directory=directory, facts=facts, grades=_grades(records))


def compare(a: Evaluation, b: Evaluation) -> dict[str, dict[str, float]]:
    """`a - b` by mode over the same examples, and `comparison-B.json` in a's directory.

    With several samples an example's grade is the mean of theirs, and McNemar's test counts its sign.
    """
    found: dict[str, dict[str, float]] = {
        mode: asdict(paired_difference(a.grades[mode], b.grades[mode])) for mode in a.grades if mode in b.grades
    }
    with atomic_path(a.directory / f"comparison-{b.directory.name}.json") as draft:
        draft.write_text(json.dumps({"a": a.facts["model"], "b": b.facts["model"], "modes": found}, indent=1))
    return found


def materialised(spec: ModelSpec, workspace: Path) -> Path:
    """Hugging Face directory of a model as it is: linked, or converted once, under `evaluations/models`.

    Raises: ModelError; MissingExtra, for `builtin:smollm2-135m` without its package.
    """
    name = hashlib.sha256(f"{identity(spec)} {spec.dtype}".encode()).hexdigest()[:12]
    directory = workspace / "evaluations" / "models" / f"{slug(spec.from_ or '')}-{name}"
    if not (directory / "model" / "config.json").is_file():
        with locked(directory, purpose="evaluate"):
            materialise(spec, directory, seed=0)
    return directory / "model"


def require_model(origin: str) -> None:
    """Raises: ModelError, if the model's weights cannot be had."""
    identity(ModelSpec(from_=weights_of(origin)))


def weights_of(origin: str) -> str:
    """The directory with the weights: of an artifact its `model/`."""
    path = Path(origin).expanduser()
    if (path / "config.json").is_file() or not path.is_dir():
        return origin
    if (path / "model" / "config.json").is_file():
        return str(path / "model")
    roles = sorted(str(item) for item in (path / "models").glob("*"))
    advice = f"It is a run: give one of its models, {', '.join(roles)}." if roles else "Give a Hugging Face directory."
    raise ModelError(f"{origin}: holds no config.json. {advice}")


def slug(origin: str) -> str:
    """A model's name as part of a directory's: the last two parts of its id or path."""
    return re.sub(r"[^\w.]+", "-", "-".join(origin.rstrip("/").split("/")[-2:])).strip("-.") or "model"


def distinct_examples(measure: Measure) -> tuple[list[Example], dict[str, int]]:
    """As many examples as the limit says that can be graded, each once; how many of those looked at cannot be, for
    want of a reference that their grader can use, and how many repeat an earlier problem, which would count twice.

    Raises: DataError, if none can be graded; whatever `load_examples` raises.
    """
    limit = asked = measure.limit if measure.limit is not None else 2**62
    while True:
        found = load_examples(measure.data, split="test", count=asked, seed=measure.seed)
        distinct, left_out = _distinct(found, limit=limit)
        if len(distinct) == limit or len(found) < asked:
            break
        asked *= 2
    if not distinct:
        raise DataError(
            f"{measure.data.path}: none of {len(found)} examples can be graded: no answer that its grader can use."
        )
    return distinct, left_out


def _distinct(found: Iterable[Example], *, limit: int) -> tuple[list[Example], dict[str, int]]:
    distinct: dict[str, Example] = {}
    left_out = {"unanswered": 0, "repeated": 0}
    for example in found:
        if not grading.can_grade(example):
            left_out["unanswered"] += 1
        elif example.id in distinct:
            left_out["repeated"] += 1
        else:
            distinct[example.id] = example
            if len(distinct) == limit:
                break
    return list(distinct.values()), left_out


def thinking_of(spec: ModelSpec, asked: str | None, workspace: Path) -> tuple[ThinkingSpec, bool]:
    """The thinking format and whether the model is known to think: asked for, the run's own, or its template's."""
    if asked is not None:
        return THINKING_FORMATS[asked], True
    path = Path(spec.from_ or "").expanduser().absolute()
    resolved = path.parent.parent / "resolved.json"
    if path.parent.name == "models" and resolved.is_file():
        return parse_recipe(read_json(resolved), where=str(resolved)).thinking, True
    model = materialised(spec, workspace)
    template = str(load_tokenizer(model).chat_template or "")
    name = format_of_template(template)
    return THINKING_FORMATS[name], name != "plain" or "<think>" in template


def _settings(spec: ModelSpec, measure: Measure, thinking: ThinkingSpec, modes: Sequence[Mode]) -> dict[str, Any]:
    """All that decides the predictions; its hash names the directory."""
    return {
        "format": FORMAT,
        "model": identity(spec),
        "dtype": spec.dtype,
        "data": content_identities(measure.data),
        "grader": measure.data.grader,
        "grading": grading.VERSION,
        "thinking": thinking.model_dump(),
        "modes": list(modes),
        "sampling": measure.sampling.model_dump(),
        "samples": measure.samples,
        "limit": measure.limit,
        "seed": measure.seed,
    }


def _answer(
    jobs: Sequence[Job], model: Path, thinking: ThinkingSpec, measure: Measure, directory: Path, progress: Progress
) -> None:
    """Fill `directory` with the shards that it lacks; the model is loaded only if there is one."""
    units = [(index, jobs[start : start + SHARD]) for index, start in enumerate(range(0, len(jobs), SHARD))]
    missing = [(index, unit) for index, unit in units if shard_path(directory, index) is None]
    progress.start(len(jobs), unit="answers", done=len(jobs) - sum(len(unit) for _, unit in missing))
    if not missing:
        return
    prepare_process(measure.execution)
    respondent = load_respondent(model, dtype=measure.dtype, thinking=thinking, execution=measure.execution)
    write_json(directory.parent / MADE_ON, describe_hardware(measure.execution))
    for index, unit in missing:
        records = respondent.answer(
            unit, sampling=measure.sampling, source="student", seed=(measure.seed, "evaluate"), too_long="wrong"
        )
        write_shard(directory, index, records, kind=SequenceRecord)
        progress.advance(len(unit))


def _ks(samples: int) -> list[int]:
    """Of pass@k: 1, 2, 4, … and all samples, where there are several."""
    return sorted({2**power for power in range(samples.bit_length())} | {samples}) if samples > 1 else []


def _grades(records: Sequence[SequenceRecord]) -> dict[Mode, list[float]]:
    """Share of right answers per example: a partly right one is not right, as in the accuracy."""
    return {
        mode: [
            sum(item.grade is not None and item.grade >= 1.0 for item in group) / len(group)
            for group in _by_example(part)
        ]
        for mode, part in by_mode(records).items()
    }


def _by_example(records: Sequence[SequenceRecord]) -> list[list[SequenceRecord]]:
    return [list(group) for _, group in groupby(records, key=lambda record: record.example_id)]
