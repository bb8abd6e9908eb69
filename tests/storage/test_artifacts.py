"""Nothing half-written is ever taken for whole."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from safetensors import SafetensorError

from eyas.errors import CorruptArtifact, Locked, StorageError
from eyas.records import SequenceRecord
from eyas.storage.artifacts import (
    MANIFEST,
    StageClock,
    atomic_path,
    damaged_files,
    disk_errors,
    open_artifact,
    remove_leftovers,
    seal,
)
from eyas.storage.locks import locked
from eyas.storage.shards import read_records, shard_path, write_shard


def sealed(directory: Path) -> Path:
    (directory / "data").mkdir(parents=True)
    (directory / "data" / "a.txt").write_text("a")
    seal(
        directory, stage="sft", fingerprint="f", config={"k": 10}, inputs={}, facts={"tokens": 3}, seconds=1.5,
        made_on={},
    )  # fmt: skip
    return directory


def sequence(number: int) -> SequenceRecord:
    return SequenceRecord(
        example_id=str(number), sample=0, mode="fast", source="student", prompt_ids=[1, 2], completion_ids=[3, number],
        finish_reason="stop", sampling_logprobs=[-0.5, -0.25], text="x", answer=None, grade=1.0,
    )  # fmt: skip


def test_a_sealed_artifact_reads_back(tmp_path: Path) -> None:
    artifact = open_artifact(sealed(tmp_path / "a"))
    assert (artifact.stage, artifact.facts["tokens"], artifact.seconds) == ("sft", 3, 1.5)
    assert list(artifact.files) == ["data/a.txt"]
    assert damaged_files(artifact) == []


def test_a_changed_or_missing_file_is_found(tmp_path: Path) -> None:
    directory = sealed(tmp_path / "a")
    (directory / "data" / "a.txt").write_text("b")
    assert damaged_files(open_artifact(directory)) == [directory / "data" / "a.txt"]
    (directory / "data" / "a.txt").unlink()
    assert damaged_files(open_artifact(directory)) == [directory / "data" / "a.txt"]


def test_what_a_killed_write_left_is_removed_and_never_sealed(tmp_path: Path) -> None:
    left = tmp_path / "a" / ".model.123.tmp"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_text("half")
    assert list(open_artifact(sealed(tmp_path / "a")).files) == ["data/a.txt"]
    remove_leftovers(tmp_path / "a")
    assert not left.exists()


def test_a_truncated_manifest_is_corrupt(tmp_path: Path) -> None:
    directory = sealed(tmp_path / "a")
    text = (directory / MANIFEST).read_text()
    (directory / MANIFEST).write_text(text[: len(text) // 2])
    with pytest.raises(CorruptArtifact, match="not a readable manifest"):
        open_artifact(directory)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    directory = sealed(tmp_path / "a")
    data = json.loads((directory / MANIFEST).read_text())
    (directory / MANIFEST).write_text(json.dumps(data | {"format": 99}))
    with pytest.raises(Exception, match="format 99"):
        open_artifact(directory)


def test_a_failed_write_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail() -> None:
        with atomic_path(path) as draft:
            draft.write_text("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("code", "words"), [(errno.ENOSPC, "disk is full"), (errno.EROFS, "read-only")])
def test_a_full_or_read_only_disk_says_so(tmp_path: Path, code: int, words: str) -> None:
    with pytest.raises(StorageError, match=words), disk_errors(tmp_path):
        raise OSError(code, os.strerror(code))


def test_a_disk_that_is_full_for_safetensors_says_so(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="disk is full"), disk_errors(tmp_path):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no /dev/full on this machine")
def test_a_really_full_disk_says_so(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="disk is full"), disk_errors(tmp_path), Path("/dev/full").open("w") as file:
        file.write("x" * 100_000)


def test_a_shard_reads_back_as_written(tmp_path: Path) -> None:
    records = [sequence(number) for number in range(5)]
    write_shard(tmp_path, 0, records, kind=SequenceRecord)
    assert list(read_records(tmp_path, kind=SequenceRecord)) == records


@pytest.mark.parametrize("damage", ["truncate", "flip"])
def test_a_damaged_shard_is_found_named_and_redone(tmp_path: Path, damage: str) -> None:
    path = write_shard(tmp_path, 0, [sequence(1)], kind=SequenceRecord)
    content = path.read_bytes()
    path.write_bytes(content[:-20] if damage == "truncate" else content[:50] + b"\x00\x01" + content[52:])
    with pytest.raises(CorruptArtifact, match="only this shard is redone"):
        list(read_records(tmp_path, kind=SequenceRecord))
    assert shard_path(tmp_path, 0) is None
    write_shard(tmp_path, 0, [sequence(1)], kind=SequenceRecord)
    assert shard_path(tmp_path, 0) is not None


def test_a_score_is_keyed_by_token_ids_not_position() -> None:
    assert sequence(1).token_hash == sequence(1).token_hash != sequence(2).token_hash
    moved = SequenceRecord(
        example_id="1", sample=0, mode="fast", source="student", prompt_ids=[1, 2, 3], completion_ids=[1],
        finish_reason="stop",
    )  # fmt: skip
    assert moved.token_hash != sequence(1).token_hash


def test_the_second_process_is_told_who_holds_the_lock(tmp_path: Path) -> None:
    with (
        locked(tmp_path, purpose="run quickstart"),
        pytest.raises(Locked, match=rf"process {os.getpid()} on .*run quickstart"),
        locked(tmp_path, purpose="another"),
    ):
        pass
    with locked(tmp_path, purpose="free again"):
        pass


def test_the_clock_goes_on_after_a_crash(tmp_path: Path) -> None:
    (tmp_path / "clock.json").write_text('{"seconds": 100.0}')
    assert 100.0 <= StageClock(tmp_path).seconds < 101.0
