"""An export that has passed its parity gate: the file, and how near it is to its model on real prompts."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import transformers

from eyas.errors import ExportError, EyasError
from eyas.export.exported import Exported
from eyas.export.formats import Choices, export_as, limits_of, open_compared
from eyas.export.reference import GREEDY_TOKENS, parity_with, reference_of, require_every_graph
from eyas.parity import Parity, require_parity
from eyas.recipe import Format
from eyas.runtimes.facts import file_facts
from eyas.storage.models import load_model, parameter_count
from eyas.storage.tokenization import load_tokenizer, stop_ids

LEAST_TOKENS = 2
"""A prompt must leave room for so many to be compared on."""


@dataclass(frozen=True)
class Checked:
    """See the module."""

    path: Path
    """What a runtime opens: a file, or a directory."""
    exported: Exported
    parameters: int
    parity: Parity | None
    """None where all weights were read back bit-equal."""
    compared_by: str
    """The runtime and its version."""

    def facts(self) -> dict[str, Any]:
        """JSON values; the path is left out."""
        return {
            "format": self.exported.format,
            "quantisation": self.exported.quantisation,
            "bytes": self.exported.bytes,
            "parameters": self.parameters,
            "bits_per_weight": round(self._bits_per_weight(), 3),
            "parity": self.parity and asdict(self.parity),
            "compared_by": self.compared_by,
            "details": dict(self.exported.facts),
        }

    def _bits_per_weight(self) -> float:
        """Of the weights alone where the format tells."""
        told = self.exported.facts.get("bits_per_weight")
        if told is None and self.exported.format in ("onnx", "ascend"):
            told = file_facts(self.path).bits_per_weight
        return float(told or 8 * self.exported.bytes / self.parameters)


def export_checked(
    format_: Format,
    model_dir: Path,
    *,
    directory: Path,
    name: str,
    prompts: Sequence[Sequence[int]],
    choices: Choices,
) -> Checked:
    """Write a model as `export_as` does; compare the file with the model in float32 on its greedy answers to prompts.

    An answer ends at a stop id, or after 64 tokens. Of graphs of fixed shapes each one is compared alone too.

    Prompts that do not fit the file's context are left out. Both are in memory meanwhile, for each is asked about the
    other's tokens. A file that does not pass is deleted, so that nobody ships it.

    Raises: ExportError with the numbers, if the file differs by more than its format's limits, or no prompt fits; as
    `export_as` and `open_runtime`.
    """
    made = export_as(format_, model_dir, directory=directory, name=name, choices=choices)
    path = made.files[0] if made.format == "gguf" else made.files[0].parent
    parameters = parameter_count(model_dir)
    if format_ == "safetensors":
        return Checked(path, made, parameters, parity=None, compared_by=f"transformers {transformers.__version__}")
    try:
        parity, compared_by = _compared(format_, path, model_dir, prompts)
    except EyasError:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        raise
    return Checked(path, made, parameters, parity=parity, compared_by=compared_by)


def _compared(format_: Format, path: Path, model_dir: Path, prompts: Sequence[Sequence[int]]) -> tuple[Parity, str]:
    """And by what: the runtime and its version.

    Raises: as `export_checked`.
    """
    model = load_model(model_dir, dtype="float32")
    own = int(getattr(model.config, "max_position_embeddings", None) or 2**31)
    longest = max(len(ids) for ids in prompts)
    with open_compared(format_, path, context_length=min(own, longest + GREEDY_TOKENS)) as runtime:
        room = runtime.context_length - LEAST_TOKENS
        fitting = [ids for ids in prompts if len(ids) <= room]
        if not fitting:
            raise ExportError(
                f"{path}: no prompt leaves room for an answer in its context of {runtime.context_length} tokens, the "
                f"shortest has {min(map(len, prompts))}. Export with a longer context."
            )
        stops = stop_ids(load_tokenizer(model_dir), model_dir)
        references = (  # made one by one: of 16 prompts of 1,000 tokens they would take 10 GB
            reference_of(model, ids, tokens=min(GREEDY_TOKENS, runtime.context_length - len(ids)), stop_ids=stops)
            for ids in fitting
        )
        parity, limits = parity_with(runtime, references), limits_of(format_)
        require_parity(parity, limits=limits)
        require_every_graph(runtime, model, fitting, limits=limits)
        return parity, f"{runtime.name} {runtime.version}"
