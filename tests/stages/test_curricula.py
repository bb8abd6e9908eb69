"""A curriculum in the stages that train: what its window leaves out is counted and never trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from test_sequences import LABELLED, artifact, context

from eyas.errors import DataError, RecipeError
from eyas.recipe import SftStage, parse_recipe
from eyas.records import Example, Mode, SequenceRecord
from eyas.stages import sft
from eyas.storage.artifacts import Artifact
from eyas.storage.shards import write_shard

MODES: tuple[Mode, ...] = ("reasoning", "fast")


@pytest.fixture
def inputs(tiny_student: Path, tmp_path: Path) -> dict[str, Artifact]:
    write_shard(tmp_path / "prepare" / "examples" / "labelled", 0, LABELLED, kind=Example)
    return {"data": artifact(tmp_path / "prepare"), "model": artifact(tiny_student.parent, dtype="float32")}


def measured(directory: Path, passed: Mapping[int, int]) -> Artifact:
    """Eight rollouts of each labelled example and mode, of which `passed` (by number, else none) are right."""
    records = [
        SequenceRecord(
            example_id=example.id, sample=sample, mode=mode, source="student", prompt_ids=[5], completion_ids=[6],
            finish_reason="stop", grade=float(sample < passed.get(number, 0)),
        )
        for number, example in enumerate(LABELLED)
        for mode in MODES
        for sample in range(8)
    ]  # fmt: skip
    write_shard(directory / "sequences", 0, records, kind=SequenceRecord)
    return artifact(directory)


def sft_stage(**curriculum: Any) -> SftStage:
    return SftStage.model_validate(
        {
            "type": "sft",
            "modes": {"fast": 1},
            "training": {"batch_size": 2, "steps": 2},
            "curriculum": {"rollouts": "difficulty", **curriculum},
        }
    )


def test_the_window_drops_what_is_never_or_nearly_always_passed_and_counts_it(
    inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    given = inputs | {"pass_rates": measured(tmp_path / "rates", {1: 8, 2: 8, 3: 7, 4: 1})}
    facts = sft.run(sft_stage(window={}), context(tmp_path / "sft", given))
    # Of six examples 0 and 5 are never passed, 1 and 2 always, 3 at 7/8 and 4 at 1/8.
    assert facts["sequences"] == 2
    assert facts["dropped"] == {
        "pass_rate_below_window": 2, "pass_rate_above_window": 2, "longer_than_max_length": 0,
    }  # fmt: skip
    assert facts["pass_rates"] == {"graded": 12, "pseudo": 0, "unknown": 0}


def test_a_window_that_leaves_nothing_says_what_to_widen(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    given = inputs | {"pass_rates": measured(tmp_path / "rates", {})}
    with pytest.raises(DataError, match=r"leaves none of 6 .*pass_rate_below_window 6.*Widen it \(low: null"):
        sft.run(sft_stage(window={}), context(tmp_path / "sft", given))


@pytest.mark.parametrize("curriculum", [{"order": "balanced"}, {"order": "competence"}, {"window": {}}])
def test_sft_needs_measured_pass_rates_for_what_they_decide(curriculum: dict[str, Any]) -> None:
    stages = [
        {"type": "prepare", "source": {"type": "arithmetic"}},
        {"type": "sft", "curriculum": curriculum},
    ]
    with pytest.raises(RecipeError, match=r"needs `curriculum.difficulty`.* or `curriculum.rollouts`"):
        parse_recipe({"name": "r", "student": "builtin:nano-student", "stages": stages})
