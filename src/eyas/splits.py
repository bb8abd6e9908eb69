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


def split_read(key: str, *, read_for: str, own_test_set: bool) -> Literal["train", "validation", "test"]:
    """The split of a problem met while `read_for`'s examples are read: `split_of`, unless the source has a test set of
    its own. All that is read for `test` then is test, and nothing else is.
    """
    if own_test_set and read_for == "test":
        return "test"
    of = split_of(key)
    return "train" if own_test_set and of == "test" else of
