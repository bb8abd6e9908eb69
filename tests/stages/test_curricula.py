"""A curriculum in the stages that train: what its window leaves out is counted and never trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_sequences import LABELLED, artifact, context

from eyas.curriculum import Key, PassRates
from eyas.errors import DataError, RecipeError
from eyas.recipe import CurriculumSpec, SftStage, parse_recipe
from eyas.records import Example, Mode, SequenceRecord
from eyas.stages import sft
from eyas.storage.artifacts import Artifact
from eyas.storage.batches import TrainingItem
from eyas.storage.difficulty import decided_order, eases
from eyas.storage.scores import TeacherScores
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
    spread = {"0": 2, "0.125": 1, "0.875": 1, "1": 2}
    assert facts["pass_rates"] == {
        "graded": 12, "pseudo": 0, "unknown": 0, "trained_without": 0, "weights": None,
        "distribution": {"reasoning": spread, "fast": spread},
    }  # fmt: skip


def test_weights_are_normalised_over_what_the_window_leaves(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    given = inputs | {"pass_rates": measured(tmp_path / "rates", {1: 8, 2: 4, 3: 7, 4: 1})}
    facts = sft.run(sft_stage(window={}, weight="frontier", smoothing=0), context(tmp_path / "sft", given))
    # 1/2 · 1/2 = 16/64 once and 7/8 · 1/8 = 7/64 twice, mean 10/64.
    assert facts["pass_rates"]["weights"] == pytest.approx([0.7, 1.6])
    assert facts["sequences"] == 3


def test_a_window_that_leaves_nothing_says_what_to_widen(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    given = inputs | {"pass_rates": measured(tmp_path / "rates", {})}
    with pytest.raises(DataError, match=r"leaves none of 6 .*pass_rate_below_window 6.*Widen it \(low: null"):
        sft.run(sft_stage(window={}), context(tmp_path / "sft", given))


def test_trained_examples_without_a_pass_rate_are_kept_and_counted(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    few = Example(key="9+9", prompt=(("user", "9+9"),), answer="18", reasoning="9+9=18")
    write_shard(tmp_path / "more" / "examples" / "labelled", 0, [*LABELLED, few], kind=Example)
    rates = measured(tmp_path / "rates", dict.fromkeys(range(6), 4))
    given = inputs | {"data": artifact(tmp_path / "more"), "pass_rates": rates}
    facts = sft.run(sft_stage(window={}), context(tmp_path / "sft", given))
    assert facts["sequences"] == 7
    assert facts["pass_rates"]["trained_without"] == 1


def test_an_order_over_modes_that_nothing_is_in_says_so() -> None:
    rates = PassRates(rates={}, shares={}, graded=0, pseudo=0, unknown=0)
    with pytest.raises(DataError, match=r"`modes` asks for reasoning, but .* leave is all fast"):
        decided_order(
            [item("a", 1, [0.0])], curriculum=CurriculumSpec(), rates=rates, modes={"reasoning": 1}, seed=0, steps=1,
            batch_size=2,
        )  # fmt: skip


@pytest.mark.parametrize("curriculum", [{"order": "balanced"}, {"order": "competence"}, {"window": {}}])
def test_sft_needs_measured_pass_rates_for_what_they_decide(curriculum: dict[str, Any]) -> None:
    stages = [
        {"type": "prepare", "source": {"type": "arithmetic"}},
        {"type": "sft", "curriculum": curriculum},
    ]
    with pytest.raises(RecipeError, match=r"needs `curriculum.difficulty`.* or `curriculum.rollouts`"):
        parse_recipe({"name": "r", "student": "builtin:nano-student", "stages": stages})


def item(example: str, completion: int, token_logprobs: list[float]) -> TrainingItem:
    record = SequenceRecord(
        example_id=example, sample=0, mode="fast", source="student", prompt_ids=[5], completion_ids=[6] * completion,
        finish_reason="stop",
    )  # fmt: skip
    own = np.array(token_logprobs, dtype=np.float32)
    none = np.zeros(0, dtype=np.float32)
    return TrainingItem(
        record, scores=TeacherScores(record.token_hash, none.astype(np.int64), none.astype(np.int64), none, none, own)
    )


def test_ease_by_length_and_by_the_teacher_is_the_mean_over_an_examples_sequences() -> None:
    items = [item("a", 2, [-1.0, -2.0]), item("b", 3, [-0.5, -0.5, -2.0]), item("a", 4, [-4.0, -3.0, -1.0, -2.0])]
    rates = PassRates(rates={("a", "fast"): 0.3}, shares={}, graded=1, pseudo=0, unknown=0)

    def ease(signal: str) -> Mapping[Key, float]:
        spec = CurriculumSpec.model_validate({"order": "easy_to_hard", "signal": signal})
        return eases(items, curriculum=spec, rates=rates)

    assert ease("length") == {("a", "fast"): -3.0, ("b", "fast"): -3.0}
    # a: (-1.5 + -2.5) / 2 = -2; b: -3 / 3 = -1, so the teacher finds b easier.
    assert ease("teacher_nll") == {("a", "fast"): pytest.approx(-2.0), ("b", "fast"): pytest.approx(-1.0)}
    assert ease("pass_rate") == {("a", "fast"): 0.3}
