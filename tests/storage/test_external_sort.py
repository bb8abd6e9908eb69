"""Sorting on disk is sorting: same order, same ties, same first `count`, and nothing left behind."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from eyas.records import Example
from eyas.storage.artifacts import remove_leftovers
from eyas.storage.external_sort import RUNS, SortedExamples, scratch_directory


def examples(count: int) -> list[tuple[int, Example]]:
    """Ranks that tie now and then, the largest included; texts with what a line must not be cut at."""
    random = Random(0)
    made = []
    for number in range(count):
        prompt = (("system", "be\nbrief \u2028"), ("user", f"{number} \ud800 ü"))
        example = Example(f"k{number}", prompt, answer=None if number % 3 else str(number), level="1", metadata="{}")
        made.append((random.choice([random.getrandbits(64), 7, 2**64 - 1]), example))
    return made


@pytest.mark.parametrize("count", [None, 0, 1, 4, 5, 99, 400, 5000])
@pytest.mark.parametrize("held", [1, 2, 10, 100_000])
def test_the_order_is_that_of_sorted_whatever_memory_holds(tmp_path: Path, count: int | None, held: int) -> None:
    made = examples(400)
    expected = [example for _, example in sorted(made, key=lambda item: item[0])][:count]
    found = SortedExamples(scratch=tmp_path / "runs", count=count, held=held)
    for rank, example in made:
        found.add(example, rank=rank)
    assert list(found) == list(found) == expected
    assert len(found) == len(expected)
    files = list(tmp_path.rglob("*.run"))
    assert len(files) <= RUNS + 1
    assert bool(files) == (held < 400 and count != 0 and (count is None or held < 2 * count))


def test_a_few_of_many_are_drawn_without_writing_any(tmp_path: Path) -> None:
    found = SortedExamples(scratch=tmp_path / "runs", count=30, held=100)
    random = Random(1)
    for number in range(20_000):
        found.add(Example(str(number), (("user", str(number)),)), rank=random.getrandbits(64))
    assert len(list(found)) == 30
    assert not list(tmp_path.rglob("*.run"))


def test_what_can_no_longer_be_among_the_first_is_not_written(tmp_path: Path) -> None:
    random = Random(2)
    found = SortedExamples(scratch=tmp_path / "runs", count=1000, held=100)
    for number in range(20_000):
        found.add(Example(str(number), (("user", str(number)),)), rank=random.getrandbits(64))
    lines = sum(len(path.read_text().splitlines()) for path in tmp_path.rglob("*.run"))
    # A new one is among the first 1,000 of n with probability 1000/n: 1000 (1 + ln 20) = 4,000 in all, and a few more.
    assert 1000 <= lines < 5000


def test_long_texts_are_written_before_their_number_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eyas.storage.external_sort.HELD_CHARACTERS", 1000)
    found = SortedExamples(scratch=tmp_path / "runs")
    for number in range(20):
        found.add(Example("x" * 300, (("user", str(number)),)), rank=20 - number)
    assert len(list(tmp_path.rglob("*.run"))) == 5
    assert [example.prompt[0][1] for example in found] == [str(number) for number in reversed(range(20))]


def test_long_texts_in_memory_are_not_sorted_at_every_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eyas.storage.external_sort.HELD_CHARACTERS", 1000)
    found, sorted_at = SortedExamples(scratch=None), []
    monkeypatch.setattr(
        SortedExamples, "_make_room", lambda self, real=SortedExamples._make_room: sorted_at.append(1) or real(self)
    )
    for number in range(1000):
        found.add(Example("x" * 100, (("user", str(number)),)), rank=1000 - number)
    # At 1,000 characters, and whenever they have doubled: 100,000 = 1,000 * 2^6.6.
    assert len(sorted_at) == 7
    assert [example.prompt[0][1] for example in found] == [str(number) for number in reversed(range(1000))]


def test_scratch_is_empty_at_first_and_gone_at_the_end_even_after_an_error_or_a_kill(tmp_path: Path) -> None:
    def fail() -> None:
        with scratch_directory(tmp_path) as scratch:
            (scratch / "half.run").write_text("x")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not list(tmp_path.iterdir())
    with scratch_directory(tmp_path) as scratch:
        (scratch / "half.run").write_text("left by a killed process")
        with scratch_directory(tmp_path) as again:
            assert not list(again.iterdir())
            (again / "half.run").write_text("left by a killed process")
            remove_leftovers(tmp_path)
            assert not list(tmp_path.iterdir())
