"""An export that has passed its parity gate: the file, and how near it is to its model on real prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import transformers

from eyas.errors import ExportError
from eyas.export.exported import Exported
from eyas.export.formats import Choices, export_as, limits_of, open_compared, path_of
from eyas.export.reference import GREEDY_TOKENS, parity_with, reference_of, require_every_graph
from eyas.parity import Parity, require_parity
from eyas.recipe import Format
from eyas.runtimes.facts import file_facts
from eyas.storage.artifacts import atomic_path
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
    other's tokens. Until it has passed a file has another name, so that nobody ships it whatever happens; one that was
    there before is then replaced.

    Raises: ExportError with the numbers, if the file differs by more than its format's limits, or no prompt fits; as
    `export_as` and `open_runtime`.
    """
    path = path_of(format_, directory=directory, name=name)
    with atomic_path(path) as draft:
        made = export_as(format_, model_dir, out=draft, name=name, choices=choices)
        parity, compared_by = _compared(format_, draft, model_dir, prompts)
    exported = replace(made, files=tuple(path / file.relative_to(draft) for file in made.files))
    return Checked(path, exported, parameter_count(model_dir), parity=parity, compared_by=compared_by)


def _compared(
    format_: Format, path: Path, model_dir: Path, prompts: Sequence[Sequence[int]]
) -> tuple[Parity | None, str]:
    """And by what: the runtime and its version. None where the export itself has read all weights back.

    Raises: as `export_checked`.
    """
    if format_ == "safetensors":
        return None, f"transformers {transformers.__version__}"
    model = load_model(model_dir, dtype="float32")
    own = int(getattr(model.config, "max_position_embeddings", None) or 2**31)
    longest = max(len(ids) for ids in prompts)
    with open_compared(format_, path, context_length=min(own, longest + GREEDY_TOKENS)) as runtime:
        room = runtime.context_length - LEAST_TOKENS
        fitting = [ids for ids in prompts if len(ids) <= room]
        if not fitting:
            raise ExportError(
                f"{format_}: no prompt leaves room for an answer in its context of {runtime.context_length} tokens, "
                f"the shortest has {min(map(len, prompts))}. Export with a longer context."
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
