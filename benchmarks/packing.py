"""Forward and backward of a student's backbone on one step's sequences: packed rows, transformers' packing, padding.

    python benchmarks/packing.py [--model smollm2|smollm2-8|nano] [--sequences 32] [--rounds 5]

The three compute the same (checked: gradients), alternate within a round, and are given in real tokens (no padding)
per second. Lengths are GSM8K's in SmolLM2's tokens (log-normal, mean 195) or the quickstart's (mean 37). bfloat16 is
autocast with packed rows.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from eyas.packing import packed_rows, padded_rows
from eyas.storage.attention import packed_attention
from eyas.storage.backbone import hidden_states
from eyas.storage.processor import core_count, cpu_name

SMOLLM2 = {
    "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3,
    "vocab_size": 49152, "tie_word_embeddings": True, "max_position_embeddings": 8192,
}  # fmt: skip
NANO = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "vocab_size": 320}


def main() -> None:
    """Print one line for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["smollm2", "smollm2-8", "nano"], default="smollm2-8")
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--micro-batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(core_count())
    model, sequences = made(options.model, options.sequences)
    lengths = [len(ids) for ids in sequences]
    steps = ways(model, sequences, micro_batch_size=options.micro_batch_size)
    gradients = {name: gradient(model, step) for name, step in steps.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.rounds):
        for name, step in steps.items():
            started = time.perf_counter()
            gradient(model, step)
            seconds[name].append(time.perf_counter() - started)
    print(f"{options.model}, {len(lengths)} sequences, mean {sum(lengths) / len(lengths):.0f} tokens, micro-batches of")
    print(f"{options.micro_batch_size}; {cpu_name()}, {core_count()} cores, torch {torch.__version__}")
    for name, found in seconds.items():
        ratios = [base / own for base, own in zip(seconds["padded"], found, strict=True)]
        error = (gradients[name] - gradients["padded"]).norm() / gradients["padded"].norm()
        print(
            f"{name:12} {sum(lengths) / median(found):8.0f} tok/s, {median(ratios):.2f} x padded "
            f"[{min(ratios):.2f}, {max(ratios):.2f}], gradient differs by {error:.0e}"
        )


def made(name: str, count: int) -> tuple[PreTrainedModel, list[list[int]]]:
    """A random model of this shape and random token ids of its task's lengths."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    shape, layers = (NANO, 3) if name == "nano" else (SMOLLM2, 8 if name == "smollm2-8" else 30)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", num_hidden_layers=layers, **shape))
    noise = torch.randn(count, generator=generator)
    lengths = (37 + 3 * noise if name == "nano" else torch.exp(5.21 + 0.335 * noise)).round().clamp(28, 600).int()
    ids = [torch.randint(5, 300, (length,), generator=generator).tolist() for length in lengths.tolist()]
    return model, ids


def ways(model: PreTrainedModel, sequences: list[list[int]], *, micro_batch_size: int) -> dict[str, Callable[[], None]]:
    """Name -> a step's forward and backward passes over all sequences."""
    lengths = [len(ids) for ids in sequences]
    padded_groups = padded_rows(lengths, micro_batch_size=micro_batch_size)
    packed_groups = packed_rows(lengths, micro_batch_size=micro_batch_size)
    decoder = model.get_decoder()

    def padded() -> None:
        for rows in padded_groups:
            batch = [sequences[index] for (index,) in rows]
            width = max(map(len, batch))
            states_BTD = hidden_states(model, torch.tensor([ids + [0] * (width - len(ids)) for ids in batch]))
            loss(torch.cat([states_TD[: len(ids)] for states_TD, ids in zip(states_BTD, batch, strict=True)]))

    def packed(*, blocks: bool) -> None:
        for (row,) in packed_groups:
            ids_1T = torch.tensor([[token for index in row for token in sequences[index]]])
            positions_1T = torch.tensor([[position for index in row for position in range(lengths[index])]])
            if blocks:
                states_1TD = decoder(input_ids=ids_1T, position_ids=positions_1T, use_cache=False).last_hidden_state
            else:
                with packed_attention(decoder, positions_1T):
                    states_1TD = decoder(input_ids=ids_1T, position_ids=positions_1T, use_cache=False).last_hidden_state
            loss(states_1TD[0])

    def bfloat16() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            packed(blocks=False)

    return {
        "padded": padded,
        "packed": lambda: packed(blocks=False),
        "block mask": lambda: packed(blocks=True),
        "bfloat16": bfloat16,
    }


def loss(states_TD: torch.Tensor) -> None:
    """Something to differentiate, that depends on no order of the tokens."""
    states_TD.float().pow(3).sum().backward()


def gradient(model: PreTrainedModel, step: Callable[[], None]) -> torch.Tensor:
    """All weights' gradients of a step, flat."""
    model.zero_grad()
    step()
    return torch.cat([value.grad.flatten() for value in model.parameters() if value.grad is not None])


if __name__ == "__main__":
    main()
