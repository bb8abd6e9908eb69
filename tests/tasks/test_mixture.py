"""Mixtures."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from eyas.errors import DataError
from eyas.recipe import MixtureSource
from eyas.tasks import load_examples

ARITHMETIC = {"type": "arithmetic", "terms": [3]}


def mixture(*parts: tuple[float, dict[str, object]]) -> MixtureSource:
    return MixtureSource.model_validate(
        {"type": "mixture", "parts": [{"share": share, "source": source} for share, source in parts]}
    )


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10, 100])
def test_shares_add_up_to_the_count(count: int) -> None:
    source = mixture((1, ARITHMETIC), (1, {"type": "words"}), (1, {"type": "arithmetic", "terms": [4]}))
    assert len(list(load_examples(source, split="test", count=count, seed=0))) == count


def test_parts_get_their_shares() -> None:
    source = mixture((3, ARITHMETIC), (1, {"type": "words"}))
    examples = load_examples(source, split="train", count=400, seed=0)
    assert Counter(example.grader for example in examples) == {"numeric": 300, "exact": 100}


def test_every_example_says_which_part_it_is_of(tmp_path: Path) -> None:
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(f'{{"question": "{n}+1?", "answer": "{n + 1}"}}\n' for n in range(200)))
    parts = ARITHMETIC, {"type": "file", "path": str(path)}, {"type": "arithmetic", "terms": [4]}
    source = mixture(*((1, part) for part in parts))
    examples = load_examples(source, split="train", count=30, seed=0)
    expected = {"arithmetic (part 1)": 10, "sums": 10, "arithmetic (part 3)": 10}
    assert Counter(example.origin for example in examples) == expected


def test_a_part_without_examples_is_named() -> None:
    source = mixture((1, ARITHMETIC), (1, {"type": "reasoning_gym", "tasks": {}}))
    with pytest.raises(DataError, match="part reasoning_gym has no examples for the test split"):
        list(load_examples(source, split="test", count=10, seed=0))
