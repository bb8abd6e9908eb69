"""`dropped.jsonl`: a line for each example that preparation left out, with its reason."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import TextIO

from eyas.filtering import Drop
from eyas.filtering.reasons import LEAKS
from eyas.records import Example

SHOWN = 5
"""Examples of each kind of repetition that the report shows."""
SHOWN_CHARACTERS = 100


class DroppedFile:
    """Written as it comes: memory holds counts, and the few rows that the report shows."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._counts: Counter[tuple[str, str]] = Counter()
        self.excluded: set[str] = set()
        """Ids of the examples that the user's exclusion file named."""
        self._shown: defaultdict[str, list[dict[str, str]]] = defaultdict(list)

    def add(self, example: Example, drop: Drop, *, split: str, repeats: str = "") -> None:
        """A dropped example of a source's split; `repeats` is the prompt that it repeats, where that is at hand."""
        prompt = example.prompt[-1][1]
        self._write({"id": example.id, "split": split, "reason": drop.reason, "of": drop.of, "prompt": prompt})
        self._counts[split, drop.reason] += 1
        if drop.reason == "excluded":
            self.excluded.add(example.id)
        shown = self._shown[drop.reason]
        if repeats and len(shown) < SHOWN:
            texts = {"text": _cut(prompt), "of_text": _cut(repeats)}
            shown.append({"reason": drop.reason, "id": example.id, "of": drop.of} | texts)

    def add_malformed(self, messages: Mapping[str, str], *, count: int) -> None:
        """Malformed records: the messages there are, and how many records there were."""
        for message in messages.values():
            self._write({"id": "", "split": "", "reason": "malformed", "error": message})
        if count:
            self._counts["", "malformed"] += count

    def _write(self, row: dict[str, str]) -> None:
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def counts(self, split: str | None = None) -> dict[str, int]:
        """Dropped examples by reason, of one split or of all."""
        found: Counter[str] = Counter()
        for (of, reason), number in self._counts.items():
            if split in (None, of):
                found[reason] += number
        return dict(found)

    def shown(self) -> list[dict[str, str]]:
        """Up to SHOWN near-duplicates and SHOWN leaks of each kind: `reason`, `id`, `text`, `of`, `of_text`."""
        return [row for reason in ("near_duplicate", *LEAKS) for row in self._shown[reason]]


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"
