"""Which of the teacher's completions becomes a label."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from eyas.errors import RecipeError
from eyas.recipe import RolloutStage, SynthesizeStage, expand, parse_recipe
from eyas.records import FinishReason, SequenceRecord
from eyas.synthesis import synthesise


def sample(
    number: int, length: int, answer: str | None, *, grade: float | None = None, reason: FinishReason = "stop",
    example: str = "e",
) -> SequenceRecord:  # fmt: skip
    return SequenceRecord(
        example_id=example, sample=number, mode="reasoning", source="teacher", prompt_ids=[1],
        completion_ids=[7] * length, finish_reason=reason, answer=answer, grade=grade,
    )  # fmt: skip


def test_the_shortest_correct_completion_is_kept() -> None:
    found = [sample(0, 3, "5", grade=0.0), sample(1, 9, "4", grade=1.0), sample(2, 6, "4", grade=1.0)]
    made = synthesise(found, min_agreement=0.5)
    assert (made.kept, made.verified, made.agreed, made.agreements) == ((2,), 1, 0, ())


def test_a_graded_prompt_without_a_correct_completion_gives_none_whatever_the_majority_says() -> None:
    found = [sample(n, 3, "5", grade=0.0) for n in range(4)]
    made = synthesise(found, min_agreement=0.5)
    assert (made.kept, made.dropped) == ((), Counter(no_correct_completion=1))


def test_without_a_grade_the_shortest_of_the_majority_is_kept() -> None:
    """Three of five say 4: an agreement of 0.6. The wrong answer is shorter, the cut one shorter still."""
    found = [
        sample(0, 8, "4"), sample(1, 5, "4"), sample(2, 7, "4"), sample(3, 2, "9"), sample(4, 1, None, reason="length")
    ]  # fmt: skip
    made = synthesise(found, min_agreement=0.6)
    assert (made.kept, made.agreed, made.verified, made.agreements) == ((1,), 1, 0, (0.6,))
    assert synthesise(found, min_agreement=0.61).dropped == Counter(no_agreement=1)


def test_a_tie_is_no_majority() -> None:
    found = [sample(0, 3, "4"), sample(1, 3, "5")]
    assert synthesise(found, min_agreement=0.5).dropped == Counter(no_agreement=1)


def test_a_cut_completion_is_never_a_label_even_if_its_answer_is_right() -> None:
    found = [sample(0, 3, "4", grade=1.0, reason="length"), sample(1, 30, "4", grade=1.0)]
    assert synthesise(found, min_agreement=0.5).kept == (1,)


@given(
    st.lists(
        st.builds(
            sample,
            st.integers(0, 7),
            st.integers(1, 9),
            st.sampled_from(["1", "2", None]),
            grade=st.sampled_from([0.0, 1.0, None]),
            reason=st.sampled_from(["stop", "length"]),
            example=st.sampled_from(["a", "b", "c"]),
        ),
        max_size=24,
    ),
    st.floats(0.05, 1.0),
)
def test_every_prompt_gives_one_label_or_one_reason(found: list[SequenceRecord], least: float) -> None:
    made = synthesise(found, min_agreement=least)
    prompts = {item.example_id for item in found}
    kept = [found[index] for index in made.kept]
    assert len({item.example_id for item in kept}) == len(kept) == made.verified + made.agreed
    assert len(kept) + made.dropped.total() == len(prompts)
    assert all(item.finish_reason == "stop" for item in kept)
    assert all(item.grade != 0.0 for item in kept)


STAGES = [
    {"type": "prepare", "source": {"type": "arithmetic"}, "labelled": 4, "unlabelled": 4},
    {"type": "synthesize", "samples_per_prompt": 4, "prompts": "all", "modes": ["reasoning"]},
    {"type": "sft", "sequences": "synthesize", "modes": {"reasoning": 1}},
    {"type": "score", "sequences": "synthesize"},
    {"type": "distill", "model": "sft", "scores": "score"},
]


def recipe(**changes: object) -> dict[str, object]:
    stages = [STAGES[0], STAGES[1] | changes, *STAGES[2:]]
    return {"name": "r", "student": "builtin:nano-student", "teacher": "builtin:nano-teacher", "stages": stages}


def test_a_synthesize_stage_is_unfolded_into_its_rollout_and_the_choice() -> None:
    rollout, choice = expand(parse_recipe(recipe()))[1:3]
    assert isinstance(rollout, RolloutStage)
    assert isinstance(choice, SynthesizeStage)
    assert (rollout.name, rollout.model, rollout.prefix) == ("synthesize.rollout", "teacher", "teacher")
    assert (rollout.samples_per_prompt, rollout.prompts, rollout.modes) == (4, "all", ("reasoning",))
    assert choice.references() == {"sequences": ("synthesize.rollout", "sequences")}


def test_the_recipes_in_the_documentation_are_recipes() -> None:
    text = (Path(__file__).parents[1] / "docs" / "synthesize.md").read_text()
    found = re.findall(r"```yaml\n(stages:.*?)```", text, flags=re.DOTALL)
    assert len(found) == 2
    for stages in found:
        parse_recipe(recipe() | yaml.safe_load(stages))


def test_a_single_sample_without_a_grade_would_agree_with_itself() -> None:
    with pytest.raises(RecipeError, match=r"one sample agrees with itself .*`prefix: teacher`"):
        parse_recipe(recipe(samples_per_prompt=1))
    parse_recipe(recipe(samples_per_prompt=1, prompts="labelled"))


def test_answers_are_called_the_teachers_only_where_the_weights_go_back_to_it() -> None:
    def source(model: str) -> str:
        data = recipe(model=model)
        tuned = [{"type": "sft", "name": f"{name}-sft", "model": name} for name in ("student", "teacher")]
        stages = data["stages"]
        assert isinstance(stages, list)
        rollout = next(
            stage
            for stage in expand(parse_recipe(data | {"stages": [stages[0], *tuned, *stages[1:]]}))
            if isinstance(stage, RolloutStage)
        )
        return rollout.prefix

    assert [source(model) for model in ("teacher", "teacher-sft", "student", "student-sft")] == [
        "teacher", "teacher", "student", "student",
    ]  # fmt: skip


def test_greedy_samples_are_all_alike_and_so_refused() -> None:
    with pytest.raises(RecipeError, match=r"sampling.temperature. above 0"):
        parse_recipe(recipe(sampling={"temperature": 0}))
