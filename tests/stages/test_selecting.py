"""Selection and staleness in the stages that train: what is measured, kept, counted, and said when nothing is left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_sequences import LABELLED, RAW, artifact, context, recipe, rollout_stage, sequences

from eyas.engines import likelihood
from eyas.engines.respondent import load_respondent
from eyas.engines.staleness import SEQUENCES, staleness_after, staleness_before, staleness_sample
from eyas.errors import DataError
from eyas.recipe import ArithmeticSource, DistillStage, ModelSpec, SamplingSpec, ScoreStage, SelectionSpec, SftStage
from eyas.records import Example, SequenceRecord
from eyas.selection import Nll, delta_ifd, select
from eyas.stages import distill, rollout, score, sft
from eyas.storage.artifacts import Artifact
from eyas.storage.models import load_model, materialise
from eyas.storage.nll import read_nll
from eyas.storage.shards import shard_paths, write_shard
from eyas.tasks import load_examples

Inputs = dict[str, Artifact]
TRAINING = {"batch_size": 8, "steps": 30, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def scored(tiny_student: Path, tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Rollouts of the student with the teacher's scores and perplexities, as a distill stage reads them."""
    root = tmp_path_factory.mktemp("scored")
    for split, examples in {"labelled": LABELLED, "unlabelled": RAW}.items():
        write_shard(root / "prepare" / "examples" / split, 0, examples, kind=Example)
    given = {"data": artifact(root / "prepare"), "model": artifact(tiny_student.parent, dtype="float32")}
    rollout.run(rollout_stage(samples_per_prompt=3), context(root / "r", given))
    given["sequences"] = artifact(root / "r")
    teacher = {"sequences": given["sequences"], "model": artifact(tiny_teacher.parent, dtype="float32")}
    stage = ScoreStage(type="score", unconditional=True)
    score.run(stage, context(root / "s", teacher))
    return given | {"scores": replace(artifact(root / "s"), config=stage.model_dump())}


def stage(**fields: Any) -> DistillStage:
    return DistillStage.model_validate({"type": "distill", "scores": "score", "training": TRAINING} | fields)


def mean_nll(path: Path, ids: list[int], *, context_tokens: int) -> float:
    """Of the tokens after the first `context_tokens`, by a plain forward pass."""
    with torch.no_grad():
        logits = load_model(path)(torch.tensor([ids])).logits[0].float()
    logprobs = torch.log_softmax(logits, -1)[:-1].gather(-1, torch.tensor(ids[1:])[:, None]).squeeze(-1)
    return -float(logprobs[context_tokens - 1 :].mean())


def test_fresh_rollouts_are_not_stale_and_training_makes_them_so(scored: Inputs, tmp_path: Path) -> None:
    facts = distill.run(stage(), context(tmp_path, scored))
    before, after = facts["staleness"]["before"], facts["staleness"]["after"]
    assert abs(before["value"]) < 1e-5
    assert abs(before["low"]) < 1e-5
    assert abs(before["high"]) < 1e-5
    assert 0.01 < after["low"] < after["value"] < after["high"]
    assert before["n"] == after["n"] == len(sequences(scored["sequences"].path)) == 72
    assert facts["dropped"] == {"longer_than_max_length": 0}
    assert facts["sequences"] == 72


def test_the_same_rollouts_are_measured_whatever_their_order_and_only_sampled_ones(scored: Inputs) -> None:
    made = sequences(scored["sequences"].path) * 2
    assert len(staleness_sample(made)) == SEQUENCES
    assert {item.token_hash for item in staleness_sample(made)} == {
        item.token_hash for item in staleness_sample(made[::-1])
    }
    other = [SequenceRecord("e", 0, "fast", "teacher", [1], [2], "stop", [-1.0]),
             SequenceRecord("e", 0, "fast", "student", [1], [2], "stop")]  # fmt: skip
    assert staleness_sample(other) == []


def far(tiny_student: Path, tmp_path: Path) -> Path:
    """The tiny student's architecture with three times the weights of another seed, so quite another distribution."""
    spec = ModelSpec(config=load_model(tiny_student).config.to_dict(), tokenizer="builtin:tokenizer")
    materialise(spec, tmp_path, seed=9)
    weights = load_file(tmp_path / "model" / "model.safetensors")
    save_file({name: 3 * value for name, value in weights.items()}, tmp_path / "model" / "model.safetensors")
    return tmp_path / "model"


def exact_divergence(old: Path, new: Path, sample: Sequence[SequenceRecord]) -> float:
    """KL(old || new) over the whole vocabulary at every position of the completions, by plain forward passes."""
    models = [load_model(path) for path in (old, new)]
    found = []
    for item in sample:
        ids = torch.tensor([item.prompt_ids + item.completion_ids])
        with torch.no_grad():
            q, p = (torch.log_softmax(model(ids).logits[0].double(), -1) for model in models)
        found.append((q.exp() * (q - p)).sum(-1)[len(item.prompt_ids) - 1 : -1])
    return float(torch.cat(found).mean())


def test_both_measures_of_staleness_are_the_divergence_over_the_whole_vocabulary(
    scored: Inputs, tiny_student: Path, tmp_path: Path
) -> None:
    """The log-ratio of a model that never saw the tokens, and the start weights against the trained ones."""
    sample = staleness_sample(sequences(scored["sequences"].path))
    exact = exact_divergence(tiny_student, far(tiny_student, tmp_path), sample)
    strange = staleness_before(
        sample, context=context(tmp_path, scored | {"model": artifact(tmp_path, dtype="float32")})
    )
    assert abs(strange.value - exact) < strange.high - strange.low < 0.3 * exact  # within 3.9 standard errors
    fresh = context(tmp_path, scored)
    before = staleness_before(sample, context=fresh)
    after = staleness_after(sample, before=before, context=fresh)
    assert after.value == pytest.approx(exact, rel=1e-4)
    assert after.low < after.value < after.high < after.low + 0.5 * (strange.high - strange.low)


def test_rollouts_of_another_policy_are_stale_before_training_and_compared_alike_after(
    scored: Inputs, tiny_student: Path, tmp_path: Path
) -> None:
    far(tiny_student, tmp_path)
    given = context(tmp_path, scored | {"model": artifact(tmp_path, dtype="float32")})
    sample = staleness_sample(sequences(scored["sequences"].path))
    before = staleness_before(sample, context=given)
    assert before.value > 0.01
    assert staleness_after(sample, before=before, context=given) == before


def test_perplexities_are_those_of_plain_forward_passes(
    scored: Inputs, tiny_student: Path, tiny_teacher: Path, tmp_path: Path
) -> None:
    made = sequences(scored["sequences"].path)
    teacher = read_nll(scored["scores"].path / "nll")
    student = likelihood.student_nll(made, context=context(tmp_path, scored))
    assert teacher.keys() == student.keys() == {item.token_hash for item in made}
    for item in made[:4]:
        for path, found in ((tiny_teacher, teacher), (tiny_student, student)):
            ids = item.prompt_ids + item.completion_ids
            expected = Nll(
                mean_nll(path, ids, context_tokens=len(item.prompt_ids) + 1),
                mean_nll(path, item.completion_ids, context_tokens=1),
            )
            assert found[item.token_hash].conditional == pytest.approx(expected.conditional, abs=1e-5)
            assert found[item.token_hash].unconditional == pytest.approx(expected.unconditional, abs=1e-5)


def test_the_window_trains_on_what_lies_in_it_and_a_second_attempt_measures_nothing_again(
    scored: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(likelihood, "SHARD", 30)
    made = sequences(scored["sequences"].path)
    teacher = read_nll(scored["scores"].path / "nll")
    window = stage(selection={"delta_ifd": [0, 0.05]})
    facts = distill.run(window, context(tmp_path, scored))
    student = read_nll(tmp_path / "nll")
    deltas = [delta_ifd(teacher=teacher[item.token_hash], student=student[item.token_hash]) for item in made]
    inside = sum(delta is not None and 0 <= delta <= 0.05 for delta in deltas)
    assert 0 < inside == facts["sequences"] < len(made)
    assert sum(facts["dropped"].values()) == len(made) - inside
    shards = shard_paths(tmp_path / "nll")
    times = [path.stat().st_mtime_ns for path in shards]
    shards[1].write_bytes(shards[1].read_bytes()[:50])
    assert distill.run(window, context(tmp_path, scored))["dropped"] == facts["dropped"]
    changed = [path.stat().st_mtime_ns != before for path, before in zip(shards, times, strict=True)]
    assert changed == [False, True, *[False] * (len(shards) - 2)]


def test_scores_without_perplexities_hold_none(scored: Inputs, tiny_teacher: Path, tmp_path: Path) -> None:
    given = {"sequences": scored["sequences"], "model": artifact(tiny_teacher.parent, dtype="float32")}
    score.run(ScoreStage(type="score"), context(tmp_path, given))
    assert not (tmp_path / "nll").exists()
    columns = pq.read_table(shard_paths(scored["scores"].path / "nll")[0]).column_names
    assert columns == ["token_hash", "conditional_nll", "unconditional_nll"]


def test_sft_on_sequences_leaves_out_the_cut_ones_and_distill_does_when_told(scored: Inputs, tmp_path: Path) -> None:
    made = sequences(scored["sequences"].path)
    cut = sum(item.finish_reason == "length" for item in made)
    assert 0 < cut < len(made)
    both = {"modes": {"reasoning": 1, "fast": 1}, "sequences": "rollout", "training": {"batch_size": 8, "steps": 1}}
    facts = sft.run(SftStage.model_validate({"type": "sft"} | both), context(tmp_path / "sft", scored))
    assert facts["dropped"] == {"truncated": cut, "longer_than_max_length": 0}
    told = stage(selection={"truncated": "drop"}, training={**TRAINING, "steps": 1})
    assert distill.run(told, context(tmp_path / "kd", scored))["dropped"]["truncated"] == cut


@pytest.mark.parametrize("run", [distill.run, sft.run])
def test_a_selection_that_leaves_nothing_names_its_filters_and_counts(
    run: Callable[..., Any], scored: Inputs, tmp_path: Path
) -> None:
    made = [item for item in sequences(scored["sequences"].path) if item.finish_reason == "length"]
    write_shard(tmp_path / "sequences", 0, made, kind=SequenceRecord)
    given = scored | {"sequences": artifact(tmp_path)}
    fields: dict[str, Any] = {"selection": {"truncated": "drop"}, "training": {"steps": 1}}
    kinds = {distill.run: stage(**fields), sft.run: SftStage.model_validate(
        {"type": "sft", "sequences": "r", "modes": {"reasoning": 1, "fast": 1}} | fields
    )}  # fmt: skip
    with pytest.raises(DataError, match=rf"leaves none of {len(made)} sequences .*\(dropped: truncated {len(made)}\)"):
        run(kinds[run], context(tmp_path / "out", given))


def test_no_correct_completion_of_the_embedded_teacher_is_repetitive(tmp_path: Path) -> None:
    materialise(ModelSpec.model_validate({"from": "builtin:nano-teacher"}), tmp_path, seed=0)
    respondent = load_respondent(
        tmp_path / "model", dtype="float32", thinking=recipe().thinking, execution=recipe().execution
    )
    problems = load_examples(ArithmeticSource(type="arithmetic", terms=(2, 3)), split="test", count=80, seed=0)
    jobs = [(example, "reasoning", 0) for example in problems]
    sampling = SamplingSpec(max_completion_tokens=60)
    made = respondent.answer(jobs, sampling=sampling, source="teacher", seed=("t",))
    correct = [item for item in made if item.grade == 1.0]
    assert len(correct) > 40
    assert not select(correct, spec=SelectionSpec(repetition=0.1)).dropped
