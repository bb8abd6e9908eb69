"""What each way of choosing layers costs in likelihood: SmolLM2-135M cut to 27, 24 and 20 of its 30 layers, untrained.

python benchmarks/pruning.py GSM8K_TRAIN.jsonl GSM8K_TEST.jsonl   # needs eyas[smollm2]

Layers are chosen on training problems. NLL in nats per token on test problems, rendered as training sees them: of the
answers (reasoning and result), and of all tokens, template and question included. Intervals: paired bootstrap over
problems of the difference to evenly spaced layers, answers.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from eyas.importance import evenly_spaced, least_important
from eyas.recipe import FileSource, ThinkingSpec
from eyas.records import Example
from eyas.storage.depth import decoder_layers, passed_by
from eyas.storage.pruning import (
    Calibration,
    CalibrationSequence,
    Pruning,
    calibration_sequences,
    choose_layers,
    token_nll,
)
from eyas.storage.smollm2 import load_smollm2
from eyas.tasks import load_examples

KEEP = (27, 24, 20)
METHODS = ("angular_distance", "block_influence", "perplexity", "perplexity_greedy")
MAX_LENGTH = 512


def problems(path: Path, *, count: int) -> list[Example]:
    """Of a GSM8K file as if all of it were training data."""
    source = FileSource(type="file", path=str(path), test_path=str(path))
    return list(load_examples(source, split="train", count=count, seed=0))


def nats(model: PreTrainedModel, sequences: Sequence[CalibrationSequence]) -> NDArray[np.float64]:
    """Of each sequence: nats and tokens of the answer, nats and tokens of all, [sequences, 4]."""
    rows = []
    with torch.inference_mode():
        for sequence in sequences:
            nll_N = token_nll(model, CalibrationSequence(sequence.ids, 1))
            answer_N = nll_N[sequence.first - 1 :]
            rows.append((float(answer_N.sum()), len(answer_N), float(nll_N.sum()), len(nll_N)))
    return np.array(rows)


def interval(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> str:
    """Ours minus theirs in nats per token, with a 95 % paired bootstrap interval."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(ours), size=(10_000, len(ours)))
    differences = (ours[drawn, 0].sum(1) - theirs[drawn, 0].sum(1)) / ours[drawn, 1].sum(1)
    low, high = np.quantile(differences, (0.025, 0.975))
    return f"{(ours[:, 0].sum() - theirs[:, 0].sum()) / ours[:, 1].sum():+.3f} [{low:+.3f}, {high:+.3f}]"


def removed_of(pruning: Pruning, *, count: int) -> tuple[int, ...]:
    """The first `count` of more removals, where removing fewer is a prefix of removing more."""
    if pruning.by == "perplexity_greedy":
        return pruning.removed[:count]
    return least_important(pruning.measured, count=count)


def main() -> None:
    """Choose, cut, measure, print one row for each cut."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--examples", type=int, default=16, help="calibration examples")
    parser.add_argument("--greedy-examples", type=int, default=8, help="of them for perplexity_greedy")
    parser.add_argument("--test-examples", type=int, default=60)
    options = parser.parse_args()

    model, tokenizer = load_smollm2()
    model.eval()
    layers = decoder_layers(model, keep=1)
    here = torch.device("cpu")
    calibration = Calibration(problems(options.train, count=options.examples), ThinkingSpec(), here)
    sequences = calibration_sequences(tokenizer, calibration, max_length=MAX_LENGTH)
    held_out = problems(options.test, count=options.test_examples)
    answers = calibration_sequences(tokenizer, Calibration(held_out, ThinkingSpec(), here), max_length=MAX_LENGTH)
    tokens = sum(len(item.ids) for item in sequences)
    print(f"calibration: {len(sequences)} sequences, {tokens:,} tokens; test: {len(answers)} problems")

    def measure(removed: Sequence[int]) -> NDArray[np.float64]:
        with passed_by([layers[index] for index in removed]):
            return nats(model, answers)

    def row(keep: int, by: str, found: NDArray[np.float64], more: str) -> None:
        answer, answer_tokens, whole, tokens = found.sum(axis=0)
        print(f"| {keep} | {by} | {answer / answer_tokens:.3f} | {whole / tokens:.3f} | {more} |", flush=True)

    print("| layers | by | answers | all | minus evenly spaced | removed |\n|---|---|---|---|---|---|")
    row(len(layers), "whole model", measure(()), "|")
    base = {}
    for keep in KEEP:
        removed = sorted(set(range(len(layers))) - set(evenly_spaced(len(layers), count=keep)))
        base[keep] = measure(removed)
        row(keep, "evenly spaced", base[keep], f"| {removed}")
    for by in options.methods:
        part = sequences[: options.greedy_examples] if by == "perplexity_greedy" else sequences
        started = time.perf_counter()
        deepest = choose_layers(model, part, by=by, keep=min(KEEP))
        print(
            f"{by}: {time.perf_counter() - started:.0f} s; measured {[round(item, 4) for item in deepest.measured]}",
            flush=True,
        )
        for keep in KEEP:
            count = len(layers) - keep
            if by == "angular_distance":
                removed = list(choose_layers(model, part, by=by, keep=keep).removed)
            else:
                removed = list(removed_of(deepest, count=count))
            found = measure(removed)
            row(keep, by, found, f"{interval(found, base[keep])} | {removed}")


if __name__ == "__main__":
    main()
