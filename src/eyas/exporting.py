"""`eyas export MODEL`: any causal language model as files for a device, each compared with the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

from eyas.errors import ExportError
from eyas.export.checked import Checked, export_checked
from eyas.export.formats import Choices, path_of, require_available
from eyas.measurement import slug, thinking_of, weights_of
from eyas.recipe import FileSource, Format, ModelSpec
from eyas.records import MODES, Example
from eyas.storage.artifacts import read_json, remove, remove_drafts, write_json
from eyas.storage.locks import locked
from eyas.storage.models import materialise
from eyas.storage.tokenization import encode_prompt, load_tokenizer
from eyas.tasks import load_examples

QUESTIONS = (
    "What is 12 + 30 - 5?",
    "Name three rivers and say which sea each of them reaches.",
    "Write a function in Python that tells whether a number is prime.",
    "A train leaves at 9:40 and arrives at 13:05. How long does it travel?",
)
"""Compared on where no data are given; both modes of each."""
EXPORTS = "exports.json"
"""Of the output directory: every file in it with its figures."""


def export_model(
    origin: str, *, formats: Sequence[Format], out: Path, data: str | None, prompts: int, choices: Choices
) -> Iterator[Checked]:
    """Write one file per format to `out`, one after the other, and say what it is in `out`/exports.json.

    The comparison is on the first `prompts` of a data file, or on QUESTIONS. It is no measurement of accuracy: that is
    an export stage's. An earlier file of the same name is deleted before it is written anew, and its figures with it.

    Raises: ModelError, DataError; ExportError with the numbers, if a file differs from its model too much;
    MissingExtra, before any file is written; Locked, while another process writes to `out`.
    """
    for format_ in formats:
        require_available(format_)
    name = file_name(origin)
    spec = ModelSpec(from_=weights_of(origin))
    with locked(out, purpose=f"export of {origin}"), TemporaryDirectory() as scratch:
        for any_format in get_args(Format):
            remove_drafts(path_of(any_format, directory=out, name=""))
        _require_free([path_of(format_, directory=out, name=name) for format_ in formats], origin)
        materialise(spec, Path(scratch), seed=0)
        model = Path(scratch) / "model"
        compared_on = _prompts(spec, model, data, count=prompts, workspace=Path(scratch))
        for format_ in formats:
            remove(path_of(format_, directory=out, name=name))
            _note(out, {})
            made = export_checked(format_, model, directory=out, name=name, prompts=compared_on, choices=choices)
            _note(out, {made.path.name: {"model": _place(origin), **made.facts()}})
            yield made


def file_name(origin: str) -> str:
    """What files of a model begin with: of a run's, the run's name and the role; of any other, as `slug`."""
    path = Path(origin).expanduser().absolute()
    run = path.parent.parent
    of_run = path.exists() and (run / "resolved.json").is_file()
    return slug(f"{run.name}/{path.name}" if of_run else origin)


def _require_free(paths: Sequence[Path], origin: str) -> None:
    """Raises: ExportError, if one of the files that are to be written is there and another model's."""
    for path in paths:
        index = path.with_name(EXPORTS)
        facts = read_json(index).get(path.name) if path.exists() and index.is_file() else None
        if facts is not None and _place(facts["model"]) != _place(origin):
            raise ExportError(f"{path}: is of {facts['model']}, and {origin} would replace it. Give another --to.")


def _place(origin: str) -> str:
    """A directory however it was written; a hub id as it is."""
    path = Path(origin).expanduser()
    return str(path.absolute()) if path.exists() else origin


def _prompts(spec: ModelSpec, model: Path, data: str | None, *, count: int, workspace: Path) -> list[list[int]]:
    if data is None:
        examples = [Example(key=text, prompt=(("user", text),)) for text in QUESTIONS]
    else:
        source = FileSource(type="file", path=data, test_path=data)
        examples = list(load_examples(source, split="test", count=count, seed=0))
    thinking, thinks = thinking_of(spec, None, workspace)
    tokenizer = load_tokenizer(model)
    modes = MODES if thinks else MODES[:1]
    return [encode_prompt(tokenizer, item, mode, thinking=thinking) for item in examples for mode in modes][:count]


def _note(out: Path, made: Mapping[str, Any]) -> None:
    """Add what was made, and take out what is no longer there."""
    if made or (out / EXPORTS).is_file():
        known = read_json(out / EXPORTS) if (out / EXPORTS).is_file() else {}
        left = {name: facts for name, facts in known.items() if (out / name).exists()}
        write_json(out / EXPORTS, {**left, **made})
