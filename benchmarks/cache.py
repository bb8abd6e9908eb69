"""The teacher cache: bytes a token and what its codes lose, ours and DistillKit's on the same log-probs, k = 10.

    python benchmarks/cache.py                  # 64 prompts of 128 tokens: about two minutes on two cores
    python benchmarks/cache.py --full           # 256 prompts, and 8,192 of the nano teacher instead of 1,024
    python benchmarks/cache.py --distillkit DIR # a checkout of github.com/arcee-ai/DistillKit; else not measured
    python benchmarks/cache.py --tuned MODEL SEQUENCES  # one more teacher, on sequences of a rollout artifact

Teachers: (a) SmolLM2-135M-Instruct scoring its own T = 1 rollouts on GSM8K prompts; (b) the embedded nano teacher, made
for its task, scoring its own. `merged` is KL(exact top-10 + tail || decoded) with what a list dropped counted as tail;
`spread` the same with the tail lost evenly over the vocabulary, an upper bound on what dropping costs. Prints Markdown.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from eyas.engines.respondent import Respondent
from eyas.engines.transformers import TransformersEngine
from eyas.recipe import ArithmeticSource, ExecutionSpec, SamplingSpec, ScoreSpec, ThinkingSpec
from eyas.records import MODES, Example, Mode, SequenceRecord
from eyas.storage.batches import TrainingItem, collate
from eyas.storage.models import load_model
from eyas.storage.scores import TeacherScores, column_bytes, read_scores, write_scores
from eyas.storage.shards import read_records
from eyas.storage.smollm2 import load_smollm2
from eyas.storage.tokenization import load_tokenizer, stop_ids, vocabulary_size
from eyas.tasks import load_examples

K = 10
MASSES = (1.0, 0.9999, 0.999)
ARRAYS = ("counts", "ids", "logprobs", "tail", "token_logprobs")
EXECUTION = ExecutionSpec(generation_batch_size=64, scoring_batch_size=16)
NANO_EXECUTION = ExecutionSpec(generation_batch_size=512, scoring_batch_size=128)
NANO = Path(__file__).parents[1] / "src" / "eyas" / "builtin" / "nano-teacher"
QWEN3 = ThinkingSpec(template_argument="enable_thinking", empty="none")
EXACT = {"polynomial_terms": [], "residual_bins": [], "delta_encoding": False, "exact_k": K}
DISTILLKIT: dict[str, dict[str, Any]] = {
    "all exact, float16": EXACT | {"exact_dtype": "float16"},
    "all exact, bfloat16": EXACT | {"exact_dtype": "bfloat16"},
    "its README's budget pick": {
        "exact_k": 1, "exact_dtype": "bfloat16", "polynomial_terms": [0, 1, "sqrt"], "term_dtype": "float32",
        "residual_bins": [], "delta_encoding": False,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Data:
    """A teacher's exact scores of sequences, all K entries each."""

    name: str
    sequences: list[SequenceRecord]
    scores: list[TeacherScores]
    vocabulary: int
    ids_NK: np.ndarray
    logprobs_NK: np.ndarray
    tail_N: np.ndarray

    @property
    def tokens(self) -> int:
        """Completion tokens."""
        return len(self.tail_N)

    def cut(self, mass: float) -> list[TeacherScores]:
        """The same with lists that end at `mass`."""
        return [
            TeacherScores.from_top_k(
                item.token_hash, item.ids.reshape(-1, K), item.logprobs.reshape(-1, K), item.tail, item.token_logprobs,
                mass=mass,
            )
            for item in self.scores
        ]  # fmt: skip


def main() -> None:
    """Score, store, read back, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--gsm8k", type=Path, default=Path("../shared/data/gsm8k"))
    parser.add_argument("--distillkit", type=Path)
    parser.add_argument("--teachers", nargs="*", choices=["smollm2", "nano"], default=["smollm2", "nano"])
    parser.add_argument("--tuned", type=Path, nargs=2, metavar=("MODEL", "SEQUENCES"))
    options = parser.parse_args()
    smollm2_count, nano_count = (256, 8192) if options.full else (64, 1024)
    if "smollm2" in options.teachers:
        show(smollm2(options.gsm8k, smollm2_count), options.distillkit)
    if "nano" in options.teachers:
        show(nano(nano_count), options.distillkit)
    if options.tuned:
        show(tuned(*options.tuned), options.distillkit)


def smollm2(gsm8k: Path, count: int) -> Data:
    """Case (a)."""
    model, tokenizer = load_smollm2()
    prompts, origin = gsm8k_prompts(gsm8k, count)
    stop = stop_ids(tokenizer, Path())
    engine = TransformersEngine(model, execution=EXECUTION, vocabulary=vocabulary_size(tokenizer))
    respondent = Respondent(engine, tokenizer, stop, ThinkingSpec(empty="none"))
    examples = [Example(key=prompt, prompt=(("user", prompt),)) for prompt in prompts]
    return own_rollouts(f"SmolLM2-135M-Instruct, {origin}", respondent, examples, modes=("fast",), tokens=128)


def gsm8k_prompts(path: Path, count: int) -> tuple[list[str], str]:
    """Questions and where they are from: GSM8K's training split, or else a generator of questions like them."""
    file = path / "train.jsonl"
    if file.is_file():
        with file.open() as lines:
            return [json.loads(line)["question"] for _, line in zip(range(count), lines, strict=False)], "GSM8K"
    try:
        gym = importlib.import_module("reasoning_gym")
    except ImportError:
        source = ArithmeticSource(type="arithmetic", terms=(3,))
        made = load_examples(source, split="train", count=count, seed=0)
        return [
            f"What is {item.prompt[0][1]}? Explain each step." for item in made
        ], "sums (no GSM8K, no reasoning-gym)"
    made = gym.create_dataset("gsm_symbolic", size=count, seed=0)
    return [entry["question"] for entry in made], "reasoning-gym's gsm_symbolic (no GSM8K)"


def nano(count: int) -> Data:
    """Case (b)."""
    model, tokenizer = load_model(NANO), load_tokenizer(NANO)
    engine = TransformersEngine(model, execution=NANO_EXECUTION, vocabulary=vocabulary_size(tokenizer))
    source = ArithmeticSource(type="arithmetic", terms=(3,))
    examples = list(load_examples(source, split="train", count=count, seed=0))
    respondent = Respondent(engine, tokenizer, stop_ids(tokenizer, NANO), QWEN3)
    return own_rollouts("nano teacher, its own task", respondent, examples, modes=MODES, tokens=48)


def tuned(path: Path, sequences: Path) -> Data:
    """A model of a run on the sequences of a rollout."""
    vocabulary = vocabulary_size(load_tokenizer(path))
    engine = TransformersEngine(load_model(path), execution=EXECUTION, vocabulary=vocabulary)
    records = {item.token_hash: item for item in read_records(sequences / "sequences", kind=SequenceRecord)}
    return scored(
        f"{path.resolve().parent.name} on {sequences.resolve().name}",
        engine,
        list(records.values()),
        vocabulary=vocabulary,
    )


def own_rollouts(
    name: str, respondent: Respondent, examples: list[Example], *, modes: tuple[Mode, ...], tokens: int
) -> Data:
    """The model's T = 1 answers, scored by itself."""
    sampling = SamplingSpec(max_completion_tokens=tokens)
    jobs = [(example, mode, 0) for mode in modes for example in examples]
    made = respondent.answer(jobs, sampling=sampling, source="teacher", seed=(0,))
    distinct = list({item.token_hash: item for item in made}.values())
    return scored(name, respondent.engine, distinct, vocabulary=vocabulary_size(respondent.tokenizer))


def scored(name: str, engine: TransformersEngine, sequences: list[SequenceRecord], *, vocabulary: int) -> Data:
    """All K entries of the engine's model on the sequences."""
    pairs = [(item.prompt_ids, item.completion_ids) for item in sequences]
    scores = engine.score(pairs, spec=ScoreSpec(top_k=K, mass=1))
    ids, logprobs, tail = (
        np.concatenate([getattr(item, column) for item in scores]) for column in ("ids", "logprobs", "tail")
    )
    logprobs_NK, tail_N = logprobs.reshape(-1, K).astype(np.float64), tail.astype(np.float64)
    return Data(name, sequences, scores, vocabulary, ids.reshape(-1, K), logprobs_NK, tail_N)


def show(data: Data, distillkit: Path | None) -> None:
    """One teacher's table."""
    captured = -np.expm1(data.tail_N)
    print(f"\n**{data.name}**: {data.tokens:,} tokens, top-{K} mass {captured.mean():.4f}\n")
    print("| cache | bytes/token | entries/token | merged: mean, p99 | spread: mean, p99 |\n|---|---|---|---|---|")
    print(f"| plain int32 ids + float16, no tail | {K * 6:.2f} | {K:.2f} | | |")
    for row in distillkit_rows(data, distillkit):
        print(row)
    lines = []
    for mass in MASSES:
        with tempfile.TemporaryDirectory() as directory:
            lines.append(ours(data, mass, Path(directory)))
    print("\n" + "\n".join(lines), flush=True)


def ours(data: Data, mass: float, directory: Path) -> str:
    """Prints our row; returns the line on columns and speed."""
    cut = data.cut(mass)
    started = time.perf_counter()
    write_scores(directory, 0, cut, spec=ScoreSpec(top_k=K, mass=mass))
    written_s = time.perf_counter() - started
    columns = column_bytes(directory)
    read_s, collate_s, found = reading(data, directory)
    counts = np.concatenate([item.counts for item in found])
    kept_NK = np.arange(K) < counts[:, None]
    decoded_NK = np.full(kept_NK.shape, -np.inf)
    decoded_NK[kept_NK] = np.concatenate([item.logprobs for item in found])
    tail_N = np.concatenate([item.tail for item in found]).astype(np.float64)
    merged, spread = losses(data, decoded_NK, tail_N)
    size = sum(columns.values()) / data.tokens
    print(f"| ours, mass {mass:g} | {size:.2f} | {counts.mean():.2f} | {figures(merged)} | {figures(spread)} |")
    by_column = ", ".join(f"{name} {value / data.tokens:.2f}" for name, value in columns.items())
    memory = sum(getattr(item, name).nbytes for item in found for name in ARRAYS) / data.tokens
    return (
        f"- mass {mass:g}: {by_column}; written at {data.tokens / written_s / 1e6:.2f}, read at "
        f"{data.tokens / read_s / 1e6:.1f}, collated at {data.tokens / collate_s / 1e6:.1f} million tokens/s; "
        f"{memory:.0f} bytes/token in memory"
    )


def reading(data: Data, directory: Path) -> tuple[float, float, list[TeacherScores]]:
    """Seconds to read the shard and to collate it in micro-batches of 64, the least of five; and what was read."""
    times = []
    for _ in range(5):
        started = time.perf_counter()
        found = list(read_scores(directory))
        read = time.perf_counter()
        items = [TrainingItem(record, scores=item) for record, item in zip(data.sequences, found, strict=True)]
        for start in range(0, len(items), 64):
            part = items[start : start + 64]
            collate(part, [(index,) for index in range(len(part))], pad_id=0, packed=False)
        times.append((read - started, time.perf_counter() - read))
    return min(read for read, _ in times), min(collated for _, collated in times), found


def losses(data: Data, decoded_NK: np.ndarray, tail_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(merged, spread) KL per token of decoded log-probs, -inf where an entry was dropped."""
    kept_NK = np.isfinite(decoded_NK)
    mass_NK, rest_N = np.exp(data.logprobs_NK), np.exp(data.tail_N)
    inside_N = np.where(kept_NK, mass_NK * (data.logprobs_NK - np.where(kept_NK, decoded_NK, 0)), 0).sum(axis=1)
    outside_N = np.where(kept_NK, 0, mass_NK).sum(axis=1) + rest_N
    with np.errstate(divide="ignore", invalid="ignore"):
        merged_N = inside_N + np.where(outside_N > 0, outside_N * (np.log(outside_N) - tail_N), 0)
        each_N = tail_N - np.log(np.maximum(data.vocabulary - kept_NK.sum(axis=1), 1))
        dropped_N = np.where(kept_NK, 0, mass_NK * (data.logprobs_NK - each_N[:, None])).sum(axis=1)
        others_N = rest_N * (data.tail_N - np.log(data.vocabulary - K) - each_N)
    return merged_N, inside_N + dropped_N + np.where(rest_N > 0, others_N, 0)


def figures(values: np.ndarray) -> str:
    """Mean and 99th percentile."""
    return f"{values.mean():.1e}, {np.quantile(values, 0.99):.1e}"


def distillkit_rows(data: Data, checkout: Path | None) -> Iterator[str]:
    """DistillKit's own codec on the same log-probs; its columns in Parquet with our compression.

    It stores no tail, so the tail is what its entries leave of one, at least 1e-8 (its own floor, densify.py), and all
    is scaled to add up to one. Its shards hold no log-prob of the completion token and no key.
    """
    if checkout is None:
        yield "| DistillKit | not measured: --distillkit not given | | | |"
        return
    sys.path.insert(0, str(checkout))
    compression = importlib.import_module("distillkit.compression")
    for name, config in DISTILLKIT.items():
        codec = compression.LogprobCompressor(
            compression.DistributionQuantizationConfig(d=data.vocabulary, k=K, **config)
        )
        ids, logprobs = torch.from_numpy(data.ids_NK).long(), torch.from_numpy(data.logprobs_NK).float()
        packed = codec.compress_from_sparse(ids[None], logprobs[None])
        back_ids, back = codec.decompress_to_sparse(packed)
        if not torch.equal(back_ids[0].sort().values, ids.sort().values):
            raise SystemExit("DistillKit gave other ids back")
        decoded_NK = back[0].double().numpy()
        tail_N = np.log(np.maximum(1 - np.exp(decoded_NK).sum(axis=1), 1e-8))
        shift_N = np.logaddexp(np.logaddexp.reduce(decoded_NK, axis=1), tail_N)
        merged, spread = losses(data, decoded_NK - shift_N[:, None], tail_N - shift_N)
        size = sum(part.shape[-1] for part in packed.values())
        stored = parquet_bytes({key: part[0].numpy() for key, part in packed.items()}) / data.tokens
        yield (
            f"| DistillKit, {name} | {size:.2f} ({stored:.2f} in Parquet) | {K:.2f} | {figures(merged)} | "
            f"{figures(spread)} |"
        )


def parquet_bytes(columns: dict[str, np.ndarray]) -> int:
    """Size of a shard with fixed-size lists of bytes, compressed as ours are."""
    arrays = [pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), part.shape[-1]) for part in columns.values()]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "x.parquet"
        table = pa.Table.from_arrays(arrays, names=list(columns))
        pq.write_table(table, path, compression="zstd", compression_level=19)
        return path.stat().st_size


if __name__ == "__main__":
    main()
