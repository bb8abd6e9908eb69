"""The models and sequence lengths that the benchmarks work on."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

SMOLLM2 = {
    "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192, "rope_theta": 100000.0,
    "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
}  # fmt: skip
"""SmolLM2-135M's config; what tokens say is of no matter to speed."""


def smollm2_shaped(layers: int, *, seed: int = 0) -> PreTrainedModel:
    """Random weights in SmolLM2-135M's shape with `layers` decoder layers, float32."""
    torch.manual_seed(seed)
    model: PreTrainedModel = LlamaForCausalLM(LlamaConfig(**SMOLLM2 | {"num_hidden_layers": layers}))
    return model.eval()


def gsm8k_lengths(count: int) -> list[tuple[int, int]]:
    """(prompt tokens with the chat template, answer tokens with EOS) of GSM8K training examples under SmolLM2's
    tokenizer, from gsm8k_lengths.csv: the first `count`, over again where there are fewer."""
    with (Path(__file__).parent / "gsm8k_lengths.csv").open() as file:
        rows = [(int(prompt), int(answer)) for prompt, answer in list(csv.reader(file))[1:]]
    return [rows[index % len(rows)] for index in range(count)]


def random_ids(count: int, *, seed: int) -> list[int]:
    """Token ids, none of them special."""
    source = random.Random(seed)
    return [source.randrange(100, int(SMOLLM2["vocab_size"])) for _ in range(count)]


def random_sequences(lengths: list[tuple[int, int]]) -> list[tuple[list[int], list[int]]]:
    """(prompt ids, completion ids) of the given lengths."""
    return [
        (random_ids(prompt, seed=2 * index), random_ids(completion, seed=2 * index + 1))
        for index, (prompt, completion) in enumerate(lengths)
    ]
