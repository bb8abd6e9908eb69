"""Data sets of the Hugging Face hub, in the schemas of tasks/records.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from eyas.errors import DataError, MissingExtra
from eyas.recipe import HubSource
from eyas.records import Example
from eyas.splits import split_read
from eyas.storage.origins import hub_commit
from eyas.tasks.mapping import BadRecords, examples_of


def commit_of(source: HubSource) -> str:
    """The commit that is read and that a fingerprint names; the revision as written where it cannot be known.

    Raises: DataError, if the id is a local directory, which has no commit and which `datasets` would read instead.
    """
    if Path(source.id).is_dir():
        raise DataError(f"{source.id}: a local directory, not a data set of the hub. Use `type: file`, `path: …`.")
    return hub_commit(source.id, source.revision, kind="dataset")


def draw(source: HubSource, *, split: str, bad: BadRecords | None = None) -> Iterator[tuple[Example, str]]:
    """Each example with its split, as `files.draw` with `test_split` in place of `test_path`.

    Raises: MissingExtra, without `datasets`; DataError, if the data set cannot be had.
    """
    name = source.test_split if split == "test" and source.test_split is not None else source.split
    rows = ((f"{source.id}, {name}, row {number}", row) for number, row in enumerate(_rows(source, name), start=1))
    every_field = name == source.split
    for example in examples_of(rows, source, name=f"{source.id}, {name}", bad=bad, every_field=every_field):
        yield example, split_read(example.key, read_for=split, own_test_set=source.test_split is not None)


def _rows(source: HubSource, split: str) -> Iterator[object]:
    """All rows, downloaded once and then read from the cache: every split's sample looks at each of them."""
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("datasets", extra="hub", purpose=f"The hub data set {source.id}") from error
    try:
        yield from datasets.load_dataset(source.id, source.config, split=split, revision=commit_of(source))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"{source.id}: cannot be had from the hub ({str(error).splitlines()[0]}). "
            "Check id, config, split, revision and network, or download it as JSON Lines and use `type: file`."
        ) from error
