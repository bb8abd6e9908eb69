"""Where a model's files come from: a built-in, a local directory or the hub; and what identifies them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from eyas import builtin
from eyas.errors import ModelError
from eyas.recipe import ModelSpec
from eyas.storage.hashing import sha256_once
from eyas.storage.pangu import link_pangu

SMOLLM2 = "builtin:smollm2-135m"
BUILTIN = "builtin:"
DESCRIBING = (".json", ".jinja", ".model", ".txt")
"""Suffixes of configs, tokenizers and templates."""
IDENTIFYING = (".safetensors", ".bin", *DESCRIBING)
"""Suffixes of all that decides what a model does: its weights too."""
UNUSED = ["*.gguf", "*.onnx", "*.h5", "*.msgpack", "*.pth", "*.tflite"]
"""Weights in formats that are not read."""


def origin_of(spec: ModelSpec) -> str:
    """Hub id, `builtin:smollm2-135m`, or an existing local directory.

    Raises: ModelError, for a built-in or a path that does not exist.
    """
    origin = spec.from_ or ""
    if origin == SMOLLM2:
        return origin
    if origin.startswith(BUILTIN):
        path = builtin.DIRECTORY / origin.removeprefix(BUILTIN)
        if not path.is_dir():
            known = sorted(item.name for item in builtin.DIRECTORY.iterdir() if (item / "config.json").is_file())
            raise ModelError(f"{origin}: no such built-in model; known: {', '.join(known)}, smollm2-135m.")
        return str(path)
    if (origin.startswith((".", "/", "~")) or origin.count("/") > 1) and not Path(origin).expanduser().is_dir():
        raise ModelError(f"{origin}: no such directory. Give a directory in Hugging Face layout, or a hub id.")
    return str(Path(origin).expanduser()) if Path(origin).expanduser().is_dir() else origin


def snapshot(spec: ModelSpec, *, weights: bool = True) -> Path:
    """Local directory of a local or hub model, downloading the latter at the commit of its identity.

    Without `weights` only config, tokenizer and template are downloaded: kilobytes, not gigabytes.

    Raises: ModelError, if it is neither here nor to be had.
    """
    origin = origin_of(spec)
    if Path(origin).is_dir():
        return Path(origin)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    commit = hub_commit(origin, spec.revision)
    try:
        if not weights:
            patterns = [f"*{suffix}" for suffix in DESCRIBING]
            return Path(snapshot_download(origin, revision=commit, allow_patterns=patterns))
        found = Path(snapshot_download(origin, revision=commit, ignore_patterns=[*UNUSED, "*.bin"]))
        if not any(found.glob("*.safetensors")):
            found = Path(snapshot_download(origin, revision=commit, ignore_patterns=UNUSED))
        return found
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"{origin}: neither a local directory nor to be had from the hub ({str(error).splitlines()[0]}). "
            "Check the id and the network, or download it and give its directory."
        ) from error


def hub_commit(origin: str, revision: str | None, *, kind: Literal["model", "dataset"] = "model") -> str:
    """The commit that a revision stands for; the revision as written where neither cache nor hub knows it.

    What the cache holds comes first and a new model's config (a data set's card) is fetched to learn its commit,
    so that a first run and its resumption name it alike, the latter even without a network.
    """
    from huggingface_hub import snapshot_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    marker = "config.json" if kind == "model" else "README.md"
    try:
        found = try_to_load_from_cache(origin, marker, revision=revision, repo_type=kind)
        if isinstance(found, str):
            return Path(found).parent.name
        return Path(snapshot_download(origin, revision=revision, repo_type=kind, allow_patterns=[marker])).name
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError):
        return revision or "main"


def hash_directory(path: Path) -> str:
    """Hex SHA-256 over the weights, configs, tokenizer and template of a directory."""
    digest = hashlib.sha256()
    for item in sorted(path.iterdir()):
        if item.is_file() and item.suffix in IDENTIFYING:
            digest.update(f"{item.name}:{sha256_once(item)}\n".encode())
    return digest.hexdigest()


def read_config(path: Path) -> dict[str, Any]:
    """A directory's `config.json`.

    Raises: ModelError, if it is not there or not JSON.
    """
    try:
        config: dict[str, Any] = json.loads((path / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path}: no readable config.json ({error}). Give a directory in Hugging Face layout."
        ) from error
    return config


def link_model(source: Path, target: Path) -> None:
    """Link a model directory; openPangu-Embedded gets Llama configs of its own beside linked files.

    Raises: ModelError, as `read_config` and `link_pangu`.
    """
    config = read_config(source)
    if config.get("model_type") == "PanguEmbedded":
        link_pangu(source, target, config)
    else:
        target.symlink_to(source, target_is_directory=True)
