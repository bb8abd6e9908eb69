"""A model as a Hugging Face directory to publish or deploy: weights, tokenizer, chat template, card."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal

import torch
from transformers import PreTrainedModel

from eyas.errors import ExportError
from eyas.export.card import ModelCard, card_text
from eyas.export.exported import Exported
from eyas.storage.artifacts import atomic_path
from eyas.storage.models import load_model, parameter_count, save_model
from eyas.storage.origins import link_model
from eyas.storage.tokenization import load_tokenizer

WeightType = Literal["float32", "bfloat16", "float16"]


def export_safetensors(model_dir: Path, *, out: Path, card: ModelCard, dtype: WeightType = "float32") -> Exported:
    """Write the directory `out`, which `AutoModelForCausalLM.from_pretrained` loads without any code of its own.

    In the type that the model was trained in its weights are bit-equal; a narrower one rounds them. The chat template
    and the generation config, with the template's end of turn among its stops, lie beside them.

    Raises: ExportError, if a weight does not fit into `dtype`, or what was written reads back otherwise; ModelError, if
    the model cannot be read.
    """
    with tempfile.TemporaryDirectory() as scratch, atomic_path(out) as draft:
        source = Path(scratch) / model_dir.resolve().name
        link_model(model_dir.resolve(), source)
        model = load_model(source, dtype=dtype)
        _require_finite(model, model_dir, dtype=dtype)
        save_model(model, load_tokenizer(source), draft, card="")
        (draft / "README.md").write_text(card_text(card, model_dir, dtype=dtype), encoding="utf-8")
        _require_equal(model, draft, dtype=dtype)
    files = sorted(
        (path for path in out.rglob("*") if path.is_file()), key=lambda path: (path.name != "config.json", path)
    )
    parameters = parameter_count(out)
    weights = sum(path.stat().st_size for path in files if path.suffix == ".safetensors")
    return Exported(
        files=tuple(files),
        format="safetensors",
        quantisation=dtype,
        bytes=sum(path.stat().st_size for path in files),
        facts={"dtype": dtype, "parameters": parameters, "bits_per_weight": round(8 * weights / parameters, 3)},
    )


def _require_finite(model: PreTrainedModel, model_dir: Path, *, dtype: str) -> None:
    for name, value in model.named_parameters():
        if not torch.isfinite(value).all():
            raise ExportError(
                f"{model_dir}: {name} holds values that are not finite in {dtype} (its largest number is "
                f"{torch.finfo(getattr(torch, dtype)).max:.3g}). Export in bfloat16 or float32."
            )


def _require_equal(model: PreTrainedModel, written: Path, *, dtype: str) -> None:
    """Raises: ExportError, if a weight reads back as anything but itself."""
    found = load_model(written, dtype=dtype).state_dict()
    for name, value in model.state_dict().items():
        if name not in found or not torch.equal(found[name], value):
            raise ExportError(
                f"{written}: {name} does not read back as it was written. Is the disk sound? Export again."
            )
