"""Hub data sets: which commit is read, and that a sample is as fair as a file's. `datasets` itself is a stub here."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from eyas.errors import DataError, MissingExtra
from eyas.recipe import HubSource, MixtureSource
from eyas.tasks import content_identities, load_examples
from eyas.tasks.mapping import BadRecords

COMMIT = "c" * 40


class DatasetsError(Exception):
    """As in `datasets.exceptions`, a root of its own."""


class Hub:
    """Stands for the package `datasets` and remembers what it was asked for."""

    def __init__(self, rows: list[dict[str, str]]) -> None:
        self.rows = rows
        self.asked: list[tuple[object, ...]] = []
        self.exceptions = SimpleNamespace(DatasetsError=DatasetsError)

    def load_dataset(self, name: str, config: str | None, *, split: str, revision: str) -> list[dict[str, str]]:
        self.asked.append((name, config, split, revision))
        return self.rows


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    stub = Hub([{"question": f"{n}+1", "answer": str(n + 1)} for n in range(400)])
    monkeypatch.setitem(sys.modules, "datasets", stub)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: f"/cache/snapshots/{COMMIT}")
    return stub


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: object, **__: object) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)


def source(**fields: object) -> HubSource:
    return HubSource.model_validate({"type": "hub", "id": "somebody/sums", **fields})


def test_a_sample_does_not_depend_on_the_order_of_the_rows_but_on_the_seed(hub: Hub) -> None:
    def drawn(seed: int) -> list[str]:
        return [example.key for example in load_examples(source(), split="train", count=50, seed=seed)]

    first = drawn(0)
    hub.rows.reverse()
    assert len(first) == 50
    assert drawn(0) == first
    assert set(drawn(1)) != set(first)
    # A head of the rows would hold numbers below 60 only.
    assert max(int(key.partition("+")[0]) for key in first) > 300


def test_the_commit_that_the_fingerprint_names_is_the_one_that_is_read(hub: Hub) -> None:
    pinned = source(config="main", revision="v1", test_split="held")
    parts = [{"share": 1, "source": pinned}, {"share": 1, "source": {"type": "words"}}]
    assert content_identities(pinned) == content_identities(MixtureSource(type="mixture", parts=parts)) == [COMMIT]
    list(load_examples(pinned, split="train", count=1, seed=0))
    list(load_examples(pinned, split="test", count=1, seed=0))
    assert hub.asked == [("somebody/sums", "main", split, COMMIT) for split in ("train", "held")]


def test_without_a_network_the_revision_stands_as_written(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch)
    assert content_identities(source(revision="v1")) == ["v1"]
    assert content_identities(source()) == ["main"]


def test_a_cached_commit_is_named_without_a_network(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch)

    def cached(name: str, file: str, *, revision: str | None, repo_type: str) -> str:
        assert (name, revision, repo_type) == ("somebody/sums", None, "dataset")
        return str(tmp_path / COMMIT / file)

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    assert content_identities(source()) == [COMMIT]


@pytest.mark.parametrize("error", [DatasetsError, OSError, ValueError])
def test_a_data_set_that_cannot_be_had_is_named(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error("no such split\nand more")

    monkeypatch.setattr(hub, "load_dataset", fail)
    with pytest.raises(DataError, match=r"somebody/sums: cannot be had from the hub \(no such split\)"):
        list(load_examples(source(), split="train", count=1, seed=0))


def test_without_datasets_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"eyas\[hub\].*pip install datasets"):
        list(load_examples(source(), split="train", count=1, seed=0))


def test_rows_of_the_real_package_are_mapped_and_bad_ones_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("eyas.tasks.hub.hub_commit", lambda *_, **__: COMMIT)
    rows = [{"chat": [{"role": "user", "content": f"{n}+1"}], "said": str(n + 1) if n else " "} for n in range(400)]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.Dataset.from_list(rows))
    mapped = source(fields={"prompt": "chat", "answer": "said"}, max_bad_share=0.01)
    bad = BadRecords()
    found = list(load_examples(mapped, split="train", count=1000, seed=0, bad=bad))
    assert len(found) > 300
    assert all(example.answer == str(int(example.prompt[0][1].partition("+")[0]) + 1) for example in found)
    assert list(bad.found) == ["somebody/sums, train, row 1"]


def test_an_id_that_is_none_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"a local directory, not a data set of the hub. Use `type: file`"):
        content_identities(source(id=str(tmp_path)))
    assert content_identities(source(id="https://huggingface.co/datasets/openai/gsm8k")) == ["main"]
