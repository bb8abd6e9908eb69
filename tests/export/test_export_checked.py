"""The parity gate as a whole: what it holds, and which files it lets through."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eyas.export import checked
from eyas.export.checked import Checked, export_checked
from eyas.export.formats import Choices
from eyas.export.reference import Reference, reference_of

PROMPTS = [[1, 19, 20, 13], [1, 30, 31, 32, 33], [1, 40, 41]]


@pytest.fixture
def export(tiny_student: Path, tmp_path: Path) -> Callable[[], Checked]:
    """Write a random model as graphs of 1, 8 and 16 tokens into `tmp_path`, compared on three short prompts."""
    choices = Choices(context_length=40, prefill_lengths=(8, 16))
    return lambda: export_checked(
        "onnx-fp32", tiny_student, directory=tmp_path, name="m", prompts=PROMPTS, choices=choices
    )


def test_one_prompts_log_probs_are_held_at_a_time(
    export: Callable[[], Checked], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[Reference]] = []

    def watched(*arguments: Any, **named: Any) -> Reference:
        assert not any(reference() for reference in made)
        found = reference_of(*arguments, **named)
        made.append(weakref.ref(found))
        return found

    monkeypatch.setattr(checked, "reference_of", watched)
    parity = export().parity
    assert len(made) == len(PROMPTS)
    assert parity is not None
    assert parity.positions == 3 * (40 - 1)  # to the end of the context, but for the last token
