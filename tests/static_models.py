"""Tiny random checkpoints of every architecture that has a static graph, and what transformers says of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from eyas.recipe import ModelSpec
from eyas.storage.models import load_model, materialise

COMMON = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.3,
}  # fmt: skip
ARCHITECTURES: dict[str, dict[str, object]] = {
    "llama": {"model_type": "llama", "tie_word_embeddings": False},
    "smollm2": {
        "model_type": "llama", "tie_word_embeddings": True, "num_attention_heads": 3, "num_key_value_heads": 1,
        "hidden_size": 48, "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
    },
    "llama3-rope": {
        "model_type": "llama",
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
        },
    },
    "openpangu": {"model_type": "llama", "attention_bias": True, "tie_word_embeddings": True, "head_dim": 16},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen2-window": {
        "model_type": "qwen2", "use_sliding_window": True, "sliding_window": 12, "max_window_layers": 1,
    },
    "qwen3": {"model_type": "qwen3", "head_dim": 16, "tie_word_embeddings": True},
    "gemma3": {
        "model_type": "gemma3_text", "head_dim": 16, "sliding_window": 12, "sliding_window_pattern": 2,
        "query_pre_attn_scalar": 16,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
}  # fmt: skip


def make_model(directory: Path, name: str, **sizes: int) -> Path:
    """The checkpoint, its biases random too, in Hugging Face layout; `sizes` replace those of its config."""
    spec = ModelSpec.model_validate({"config": COMMON | ARCHITECTURES[name] | sizes, "tokenizer": "builtin:tokenizer"})
    materialise(spec, directory, seed=5)
    model = load_model(directory / "model")
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for key, value in model.named_parameters():
            if key.endswith("bias"):
                value.copy_(0.5 * torch.randn(value.shape, generator=generator))
            elif "norm" in key:
                value.add_(0.2 * torch.randn(value.shape, generator=generator))
    model.save_pretrained(directory / "model")
    return directory / "model"


def hf_logits(model_dir: Path, ids: Sequence[int]) -> NDArray[np.float32]:
    """Logits [T, V] of transformers in float32, no cache."""
    with torch.inference_mode():
        logits: NDArray[np.float32] = (
            load_model(model_dir)(torch.tensor([list(ids)]), use_cache=False).logits[0].numpy()
        )
    return logits


def hf_greedy(model_dir: Path, ids: Sequence[int], *, count: int) -> list[int]:
    """Greedy continuation by transformers, every step from scratch."""
    model, taken = load_model(model_dir), list(ids)
    with torch.inference_mode():
        for _ in range(count):
            taken.append(int(model(torch.tensor([taken]), use_cache=False).logits[0, -1].argmax()))
    return taken[len(ids) :]
