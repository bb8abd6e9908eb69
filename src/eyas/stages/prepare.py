"""Prepare: load, filter and split examples, and take the answers off the unlabelled prompts.

Training examples are a stream that memory need not hold: they are sorted on disk into the order of sampling, screened
in one pass, and sorted by id in another, from which the shards are written.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from eyas.errors import DataError
from eyas.filtering import EvaluationSet, Rules, Screen, near, spread
from eyas.filtering.language import check_languages
from eyas.filtering.reasons import LEAKS
from eyas.filtering.screen import Decisions
from eyas.grading import can_grade
from eyas.recipe import PrepareStage
from eyas.recipe.held_out import held_out_of
from eyas.records import Example, Split
from eyas.storage.artifacts import atomic_path
from eyas.storage.bands import BandFiles
from eyas.storage.context import StageContext, steps
from eyas.storage.dropped import SHOWN, DroppedFile
from eyas.storage.external_sort import SortedExamples, scratch_directory
from eyas.storage.shards import ShardWriter
from eyas.tasks import examples_to_read, load_examples
from eyas.tasks.exclusion import read_exclusion
from eyas.tasks.held_out import load_held_out, rejected_by_their_grader, screened_held_out
from eyas.tasks.mapping import BadRecords

TOP_UPS = 3
"""How often more is asked of a source for what was dropped; each time what the yield so far says is needed."""


def run(stage: PrepareStage, context: StageContext) -> dict[str, Any]:
    """Write `examples/SPLIT/`, and `dropped.jsonl` with the reason for each dropped example.

    Raises: DataError, if a split is empty or its answers cannot be graded; whatever `load_examples` raises.
    """
    rules, bad = _rules(stage), BadRecords()
    with (
        scratch_directory(context.directory) as scratch,
        atomic_path(context.directory / "dropped.jsonl") as draft,
        draft.open("w", encoding="utf-8", errors="backslashreplace") as file,
    ):
        dropped = DroppedFile(file)
        splits = _held_out(stage, rules=rules, bad=bad, dropped=dropped, context=context)
        rejected = rejected_by_their_grader(splits["test"])
        elsewhere = [example for other in stage.held_out_elsewhere for example in load_held_out(other)]
        evaluation = EvaluationSet([*(example for held_out in splits.values() for example in held_out), *elsewhere])
        loaded, decisions = _screened(stage, context, scratch, evaluation=evaluation, rules=rules, bad=bad)
        kept = _survivors(loaded, decisions, scratch=scratch / "kept", dropped=dropped, context=context)
        if not kept:
            raise DataError(_nothing_left("training", dropped.counts("train")))
        counts = _write_training(stage, kept, context)
        dropped.add_malformed(bad.found, count=bad.count)
    for split, examples in splits.items():
        counts[split] = _write(context.directory, split, examples)
    return {
        "source": stage.source.type,
        "counts": {split: counts[split] for split in ("labelled", "unlabelled", "validation", "test", "off_task")},
        "asked": {name: getattr(stage, name) for name in ("labelled", "unlabelled", "validation", "test")},
        "dropped": dropped.counts(),
        "dropped_examples": dropped.shown(),
        "held_out_elsewhere": len(elsewhere),
        "excluded_ids_not_drawn": len(rules.excluded) - len(dropped.excluded),
        "answered": counts["labelled"],
        "answered_validation": sum(map(can_grade, splits["validation"])),
        "test_answers_rejected_by_their_grader": rejected,
    }


def _rules(stage: PrepareStage) -> Rules:
    check_languages(stage.languages)
    return Rules(
        min_characters=stage.min_characters,
        max_characters=stage.max_characters,
        languages=stage.languages,
        excluded=np.empty(0, np.uint64) if stage.exclude is None else read_exclusion(stage.exclude),
    )


def _held_out(
    stage: PrepareStage, *, rules: Rules, bad: BadRecords, dropped: DroppedFile, context: StageContext
) -> dict[Split, list[Example]]:
    """Test and validation problems, none of them in both, and the off-task prompts as they come."""
    found: dict[Split, list[Example]] = {"test": [], "validation": [], "off_task": []}
    wanted = held_out_of(stage)
    prompts: dict[str, str] = {}
    context.progress.start(sum(item.count for item in wanted), unit="held-out examples")
    for name, item in zip(found, wanted, strict=False):
        if name == "off_task":
            found[name] = load_held_out(item, bad=bad)
        else:
            for example, drop in screened_held_out(item, known=found["test"], rules=rules, bad=bad):
                prompts[example.id] = example.prompt[-1][1]
                if drop is None:
                    found[name].append(example)
                else:
                    dropped.add(example, drop, split=name, repeats=prompts.get(drop.of, ""))
            if not found[name]:
                raise DataError(_nothing_left(name, dropped.counts(name)))
        context.progress.advance(item.count)
    return found


def _screened(
    stage: PrepareStage, context: StageContext, scratch: Path, *, evaluation: EvaluationSet, rules: Rules,
    bad: BadRecords,
) -> tuple[Collection[Example], Decisions]:  # fmt: skip
    """Training examples in the order of sampling; more is loaded for what was dropped or lacks an answer."""
    wanted = asked = stage.labelled + stage.unlabelled
    for top_up in range(TOP_UPS + 1):
        own = scratch / f"training-{top_up}"
        reads = examples_to_read(stage.source, split="train", count=asked)
        with steps(context.progress, reads, unit="examples read") as step:
            loaded = load_examples(
                stage.source, split="train", count=asked, seed=context.recipe.seed, bad=bad, scratch=own, step=step
            )
        with closing(BandFiles(own / "bands")) as bands:
            screen = Screen(evaluation=evaluation, sample=spread(loaded, count=len(loaded)), rules=rules, bands=bands)
            with steps(context.progress, len(loaded), unit="examples compared") as step:
                for example in loaded:
                    screen.see(example)
                    step()
            with steps(context.progress, near.BANDS, unit="bands compared", every=1) as step:
                decisions = screen.decide(tick=step)
        answered = int((decisions.kept & decisions.answered_N).sum())
        missing = max(wanted / max(int(decisions.kept.sum()), 1), stage.labelled / max(answered, 1))
        if missing <= 1 or len(loaded) < asked or top_up == TOP_UPS:
            break
        asked = ceil(asked * missing * 1.05) + 16
        shutil.rmtree(own)
    return loaded, decisions


def _survivors(
    loaded: Collection[Example], decisions: Decisions, *, scratch: Path, dropped: DroppedFile, context: StageContext
) -> SortedExamples:
    """The kept examples in the order of their ids; each other one gets its line in `dropped.jsonl`."""
    kept = SortedExamples(scratch=scratch)
    shown = decisions.originals("near_duplicate", first=SHOWN)
    prompts: dict[int, str] = {}
    with steps(context.progress, len(loaded), unit="examples sorted") as step:
        for place, example in enumerate(loaded):
            drop, of = decisions.drop(place), int(decisions.of_N[place])
            if place in shown:
                prompts[place] = example.prompt[-1][1]
            if drop is None:
                kept.add(example, rank=int(example.id, 16))
            else:
                leak = drop.reason in LEAKS
                repeats = decisions.evaluation.examples[of].prompt[-1][1] if leak else prompts.get(of, "")
                dropped.add(example, drop, split="train", repeats=repeats)
            step()
    return kept


def _write_training(stage: PrepareStage, kept: SortedExamples, context: StageContext) -> dict[Split, int]:
    """The first answered examples are labelled, the first others unlabelled; how many there are of each."""
    directory = context.directory / "examples"
    labelled = ShardWriter(directory / "labelled", kind=Example)
    unlabelled = ShardWriter(directory / "unlabelled", kind=Example)
    with steps(context.progress, len(kept), unit="examples written") as step:
        for example in kept:
            if example.answer is not None and labelled.count < stage.labelled:
                labelled.add(example)
            elif unlabelled.count < stage.unlabelled:
                unlabelled.add(_without_answer(example))
            step()
    return {"labelled": labelled.finish(), "unlabelled": unlabelled.finish()}


def _write(directory: Path, split: Split, examples: Sequence[Example]) -> int:
    writer = ShardWriter(directory / "examples" / split, kind=Example)
    for example in examples:
        writer.add(example)
    return writer.finish()


def _nothing_left(split: str, reasons: Mapping[str, int]) -> str:
    why = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    found = f"all that the source gave were dropped ({why}). " if why else "the source gave none. "
    if reasons.get("no_answer_to_grade_by"):
        return (
            f"no {split} examples: {found}Nothing can be tested on prompts alone. Put problems with answers, none of "
            "which is trained on, into a file of their own and give it as `test_path` (of a hub data set: "
            "`test_split`): 100 measure an accuracy to about ±10 points, 400 to ±5. "
            "docs/synthesize.md has a recipe for prompts alone."
        )
    return (
        f"no {split} examples: {found}A file needs a few dozen different problems with answers, or its own "
        "`test_path`; `labelled` and `unlabelled` must not both be 0."
    )


def _without_answer(example: Example) -> Example:
    return replace(example, answer=None, reasoning=None, metadata="")
