"""The teacher cache: what is read is what was written within the codes' bound, and nothing else is read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eyas.errors import ArtifactError, CorruptArtifact, DataError
from eyas.logcodes import STEP, TOKEN_STEP
from eyas.recipe import ScoreSpec
from eyas.records import SequenceRecord
from eyas.storage.batches import TrainingItem, collate
from eyas.storage.scores import METADATA, TeacherScores, column_bytes, read_scores, write_scores
from eyas.storage.shards import shard_path, write_table
from eyas.storage.statistics import score_statistics

SPEC = ScoreSpec()


def made(tokens: int, seed: int = 0, *, k: int = 10, vocabulary: int = 200_000, mass: float = 0.9999) -> TeacherScores:
    generator = np.random.default_rng(seed)
    logits = np.sort(generator.normal(0, 4, (tokens, k + 1)), axis=1)[:, ::-1]
    logprobs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    ids = generator.integers(0, vocabulary, (tokens, k))
    return TeacherScores.from_top_k(
        f"{seed:032x}", ids, logprobs[:, :-1], logprobs[:, -1], -generator.exponential(2, tokens), mass=mass
    )


def roundtrip(directory: Path, scores: list[TeacherScores], spec: ScoreSpec = SPEC) -> list[TeacherScores]:
    write_scores(directory, 0, scores, spec=spec)
    return list(read_scores(directory))


def sums(scores: TeacherScores) -> np.ndarray:
    starts = np.cumsum(scores.counts) - scores.counts
    return np.add.reduceat(np.exp(scores.logprobs.astype(np.float64)), starts) + np.exp(scores.tail.astype(np.float64))


@settings(deadline=None, max_examples=25)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6), mass=st.sampled_from([0.5, 0.99, 1.0]))
def test_scores_read_back_within_the_bound(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], mass: float
) -> None:
    written = [made(tokens, seed, mass=mass) for seed, tokens in enumerate(lengths)]
    found = roundtrip(tmp_path_factory.mktemp("scores"), written)
    assert [item.token_hash for item in found] == [item.token_hash for item in written]
    for ours, exact in zip(found, written, strict=True):
        np.testing.assert_array_equal(ours.counts, exact.counts)
        np.testing.assert_array_equal(ours.ids, exact.ids)
        np.testing.assert_allclose(ours.logprobs, exact.logprobs, atol=STEP + 1e-5)
        np.testing.assert_allclose(ours.tail, exact.tail, atol=STEP + 1e-5)
        np.testing.assert_allclose(ours.token_logprobs, exact.token_logprobs, atol=TOKEN_STEP / 2 + 1e-5)
        np.testing.assert_allclose(sums(ours), 1, atol=1e-6)
        np.testing.assert_allclose(sums(exact), 1, atol=1e-6)


def test_a_list_ends_where_its_mass_is_reached_and_the_rest_is_its_tail() -> None:
    exact = np.log(np.array([[0.6, 0.3, 0.06, 0.04], [0.97, 0.01, 0.01, 0.01]]))
    scores = TeacherScores.from_top_k(
        "h", np.array([[5, 6, 7], [8, 9, 10]]), exact[:, :3], exact[:, 3], np.zeros(2), mass=0.95
    )
    assert scores.counts.tolist() == [3, 1]
    assert scores.ids.tolist() == [5, 6, 7, 8]
    np.testing.assert_allclose(np.exp(scores.tail), [0.04, 0.03], rtol=1e-6)


def test_mass_one_keeps_all_k_but_ids_without_mass() -> None:
    with np.errstate(divide="ignore"):
        exact = np.log(np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]))
    nothing = np.full(2, -np.inf)
    ids = np.array([[1, 2, 3], [1, 2, 3]])
    scores = TeacherScores.from_top_k("h", ids, exact, nothing, np.zeros(2), mass=1.0)
    assert scores.counts.tolist() == [1, 2]
    assert made(50, k=7, mass=1.0).counts.tolist() == [7] * 50


def test_a_whole_vocabulary_has_no_tail(tmp_path: Path) -> None:
    logprobs = np.log(np.array([[0.5, 0.25, 0.25]]))
    whole = TeacherScores.from_top_k(
        "h", np.array([[2, 0, 1]]), logprobs, np.array([-np.inf]), np.array([-0.5]), mass=1.0
    )
    (found,) = roundtrip(tmp_path, [whole])
    assert np.isneginf(found.tail).all()
    np.testing.assert_allclose(np.exp(found.logprobs).sum(), 1, atol=1e-6)


@pytest.mark.parametrize("mass", [1e-12, 1e-6])
def test_a_confident_teachers_tail_survives(tmp_path: Path, mass: float) -> None:
    scores = TeacherScores.from_top_k(
        "h", np.array([[3]]), np.log1p(np.array([[-mass]])), np.log(np.array([mass])), np.zeros(1), mass=1.0
    )
    (found,) = roundtrip(tmp_path, [scores])
    assert abs(found.tail[0] - np.log(mass)) <= STEP


def test_ids_of_any_vocabulary_fit_up_to_31_bits(tmp_path: Path) -> None:
    ids = np.array([[151_935, 262_144, 2**31 - 1]])
    logprobs, tail = np.log(np.array([[0.5, 0.2, 0.2]])), np.log(np.array([0.1]))
    (found,) = roundtrip(tmp_path, [TeacherScores.from_top_k("h", ids, logprobs, tail, np.zeros(1), mass=1.0)])
    assert found.ids.tolist() == ids[0].tolist()
    for wrong in (2**31, -1):
        with pytest.raises(DataError, match=rf"token id {wrong}: the teacher cache holds ids from 0 to 2147483647"):
            TeacherScores.from_top_k("h", np.array([[wrong, 1, 2]]), logprobs, tail, np.zeros(1), mass=1.0)


def test_drawn_counts_survive_exactly(tmp_path: Path) -> None:
    ids, draws = np.array([[7, 300_000, 0], [5, 0, 0]]), np.array([[31, 18, 1], [50, 0, 0]])
    scores = TeacherScores.from_draws("h", ids, draws, np.array([-0.5, -3.0]))
    (found,) = roundtrip(tmp_path, [scores], ScoreSpec(target="random_sampling", samples=50))
    assert found.counts.tolist() == [3, 1]
    assert found.ids.tolist() == [7, 300_000, 0, 5]
    np.testing.assert_allclose(found.logprobs, np.log(np.array([31, 18, 1, 50]) / 50), atol=1e-6)
    assert np.isneginf(found.tail).all()


def test_a_truncated_shard_is_found_and_redone(tmp_path: Path) -> None:
    path = write_scores(tmp_path, 0, [made(20)], spec=SPEC)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CorruptArtifact, match="only this shard is redone"):
        list(read_scores(tmp_path))
    assert shard_path(tmp_path, 0) is None
    assert len(roundtrip(tmp_path, [made(20)])) == 1


@pytest.mark.parametrize("described", [{"format": 7}, {}, None])
def test_another_format_is_refused_with_what_to_do(tmp_path: Path, described: dict[str, int] | None) -> None:
    table = pq.read_table(write_scores(tmp_path, 0, [made(3)], spec=SPEC))
    metadata = None if described is None else {METADATA: json.dumps(described)}
    write_table(tmp_path, 0, table.replace_schema_metadata(metadata))
    with pytest.raises(ArtifactError, match=r"in format (7|unknown), this version of eyas reads 1\. Delete .* run the"):
        list(read_scores(tmp_path))


def test_what_other_readers_compute_is_what_we_read(tmp_path: Path) -> None:
    """docs/cache.md's arithmetic, entry by entry."""
    path = write_scores(tmp_path, 0, [made(4, 1), made(3, 2)], spec=SPEC)
    table = pq.read_table(path)
    assert table.schema.field("ids").type.value_type.value_type == pa.int32()
    described = json.loads(table.schema.metadata[METADATA])
    assert (described["format"], described["target"], described["top_k"], described["mass"]) == (1, "top_k", 10, 0.9999)
    rows = table.to_pylist()
    for row, found in zip(rows, read_scores(tmp_path), strict=True):
        expected, tails = [], []
        for codes, tail in zip(row["codes"], row["tail_codes"], strict=True):
            weights = [np.exp(-code * described["step"]) for code in codes]
            rest = 0.0 if tail == described["no_tail"] else np.exp(-tail * described["step"])
            expected += [weight / (sum(weights) + rest) for weight in weights]
            tails.append(rest / (sum(weights) + rest))
        assert [entry for ids in row["ids"] for entry in ids] == found.ids.tolist()
        np.testing.assert_allclose(np.exp(found.logprobs), expected, rtol=1e-5)
        np.testing.assert_allclose(np.exp(found.tail), tails, rtol=1e-5)
        np.testing.assert_allclose(found.token_logprobs, [-c * described["token_step"] for c in row["token_codes"]])


def test_statistics_count_every_byte(tmp_path: Path) -> None:
    scores = [made(30, seed) for seed in range(4)]
    found = roundtrip(tmp_path, scores)
    facts = score_statistics(found, column_bytes=column_bytes(tmp_path), tokens=500, target="top_k")
    assert facts["bytes"] == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert sum(facts["bytes_per_token_by_column"].values()) == pytest.approx(facts["bytes_per_token"])
    assert set(facts["bytes_per_token_by_column"]) == {
        "token_hash", "ids", "codes", "tail_codes", "token_codes", "other"
    }  # fmt: skip
    exact = 1 - np.exp(np.concatenate([item.tail for item in scores]))
    assert facts["mean_captured_mass"] == pytest.approx(exact.mean(), abs=5e-3)
    assert facts["entries_per_token"] == sum(len(item.ids) for item in scores) / 120


def training_items(scores: list[TeacherScores]) -> list[TrainingItem]:
    records = [
        SequenceRecord(
            example_id=str(n), sample=0, mode="fast", source="student", prompt_ids=[1] * 20,
            completion_ids=[2] * len(item.counts), finish_reason="stop",
        )
        for n, item in enumerate(scores)
    ]  # fmt: skip
    return [TrainingItem(record, scores=item) for record, item in zip(records, scores, strict=True)]


def test_collated_entries_are_padded_with_the_first_id_and_no_mass() -> None:
    scores = [made(3, 1, mass=0.9), made(2, 2, mass=0.9)]
    batch = collate(training_items(scores), [(1,), (0,)], pad_id=0, packed=False)
    counts = np.concatenate([scores[1].counts, scores[0].counts])
    start = 0
    flat_ids, flat = (np.concatenate([getattr(scores[n], name) for n in (1, 0)]) for name in ("ids", "logprobs"))
    for row, count in enumerate(counts):
        assert batch["teacher_ids_NK"][row, :count].tolist() == flat_ids[start : start + count].tolist()
        assert set(batch["teacher_ids_NK"][row, count:].tolist()) <= {flat_ids[start]}
        assert batch["teacher_logprobs_NK"][row, :count].tolist() == flat[start : start + count].tolist()
        assert (batch["teacher_logprobs_NK"][row, count:] == -np.inf).all()
        start += count
    assert batch["teacher_tail_N"].tolist() == np.concatenate([scores[1].tail, scores[0].tail]).tolist()
    assert batch["teacher_ids_NK"].shape == (5, counts.max())
