"""Which split a problem belongs to: by hash of the problem alone, so that no seed can leak test into train."""

from __future__ import annotations

import hashlib
from typing import Literal

TEST_PERCENT = 10
VALIDATION_PERCENT = 5


def split_of(key: str) -> Literal["train", "validation", "test"]:
    """The split of the problem whose canonical text is `key`: 85 % train, 5 % validation, 10 % test.

    Shared by every source and by the pretraining of the embedded pair.
    """
    bucket = int.from_bytes(hashlib.sha256(b"eyas split:" + key.encode()).digest()[:8], "big") % 100
    if bucket < TEST_PERCENT:
        return "test"
    return "validation" if bucket < TEST_PERCENT + VALIDATION_PERCENT else "train"


def split_beside_test_set(key: str, *, in_test_set: bool) -> Literal["train", "validation", "test"]:
    """The split of a problem where the test examples are a set of their own: all of that is test, nothing else is."""
    if in_test_set:
        return "test"
    of = split_of(key)
    return "train" if of == "test" else of
