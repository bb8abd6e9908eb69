"""`eyas plan`: what would run, what it would cost, and whether the two models fit together."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig, AutoModelForCausalLM

from eyas.estimates import Estimate, Estimator, Lengths, Machine, ModelSize
from eyas.graph import Node, build_graph
from eyas.preflight import check_recipe_pair, recipe_modes, sample_examples
from eyas.recipe import ModelSpec, Recipe, SamplingSpec
from eyas.records import Mode
from eyas.storage.artifacts import damaged_files
from eyas.storage.hardware import total_memory_bytes
from eyas.storage.models import materialise
from eyas.storage.tokenization import encode_prompt, label_sequence, load_tokenizer, stop_ids


def print_plan(recipe: Recipe, *, workspace: Path) -> None:
    """Print the plan. Reads tokenizers and configs; writes nothing to the workspace.

    Raises: PairMismatch, ModelError or DataError, if the run would not get past its first checks.
    """
    console = Console()
    nodes = build_graph(recipe, workspace=workspace)
    with TemporaryDirectory() as scratch:
        paths = {
            node.name: _weights(node, recipe, Path(scratch)) for node in nodes if isinstance(node.stage, ModelSpec)
        }
        report = check_recipe_pair(recipe, paths)
        sizes = {name: size_of(path) for name, path in paths.items()}
        lengths = sample_lengths(recipe, paths["student"])
    estimator = Estimator(sizes=sizes, lengths=lengths, machine=probe_machine(), execution=recipe.execution)
    table = Table(
        "stage", "makes", "state", *(_right(title) for title in ("sequences", "tokens", "time", "disk", "memory"))
    )
    table.title = f"{recipe.name}: {len(nodes)} artifacts in {workspace / 'artifacts'}"
    total: list[Estimate] = []
    for node in nodes:
        cost = Estimate() if isinstance(node.stage, ModelSpec) else estimator.estimate(node.stage, matched=node.rounds)
        state = _state(node)
        table.add_row(node.name, node.type, state, *_cells(cost))
        if state != "done, skipped":
            total.append(cost)
    console.print(table)
    for line in report.lines():
        console.print(line, highlight=False)
    for name, size in sizes.items():
        console.print(f"{name}: {size.parameters / 1e6:,.2f} M parameters, {size.layers} layers", highlight=False)
    need = max((cost.memory_bytes for cost in total), default=0)
    console.print(
        f"To do: about {_duration(sum(cost.seconds for cost in total))}, "
        f"{sum(cost.tokens for cost in total):,} tokens, {_bytes(sum(cost.disk_bytes for cost in total))} of disk, "
        f"{_bytes(need)} of memory at most (this machine has {_bytes(total_memory_bytes())}). "
        "Times are rough: within a factor of two or three.",
        highlight=False,
    )


def _weights(node: Node, recipe: Recipe, scratch: Path) -> Path:
    if node.finished() is None:
        assert isinstance(node.stage, ModelSpec)  # noqa: S101
        materialise(node.stage, scratch / node.name, seed=recipe.seed)
        return scratch / node.name / "model"
    return node.directory / "model"


def size_of(path: Path) -> ModelSize:
    """Shape of the model in a Hugging Face directory, from its config alone."""
    config = AutoConfig.from_pretrained(path)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return ModelSize(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        kv_width=heads * head_dim,
        vocabulary=config.vocab_size,
    )


def sample_lengths(recipe: Recipe, student: Path) -> Lengths:
    """Mean prompt and completion tokens of a few of the recipe's own examples, by mode.

    A completion without a reference counts as half of the recipe's default maximum.
    """
    tokenizer = load_tokenizer(student)
    stop_id = stop_ids(tokenizer, student)[0]
    examples = sample_examples(recipe)
    prompt: dict[Mode, float] = {}
    completion: dict[Mode, float] = {}
    for mode in recipe_modes(recipe):
        prompts = [len(encode_prompt(tokenizer, item, mode, thinking=recipe.thinking)) for item in examples]
        labels = [label_sequence(tokenizer, item, mode, thinking=recipe.thinking, stop_id=stop_id) for item in examples]
        known = [len(label.completion_ids) for label in labels if label is not None]
        prompt[mode] = sum(prompts) / max(1, len(prompts))
        completion[mode] = sum(known) / len(known) if known else SamplingSpec().max_completion_tokens / 2
    return Lengths(prompt=prompt, completion=completion)


def probe_machine() -> Machine:
    """Time a matrix multiply for about a tenth of a second."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    side = 4096 if device == "cuda" else 768
    left = torch.randn(side, side, device=device)
    left @ left
    started, rounds = time.perf_counter(), 0
    while time.perf_counter() - started < 0.1:
        (left @ left).sum().item()
        rounds += 1
    return Machine(flop_per_s=2 * side**3 * rounds / (time.perf_counter() - started), memory_bytes=total_memory_bytes())


def _state(node: Node) -> str:
    made = node.finished()
    if made is not None:
        return "damaged, redone" if damaged_files(made) else "done, skipped"
    if node.directory.is_dir() and any(path for path in node.directory.iterdir() if not path.name.startswith(".")):
        return "begun, continues"
    return "to do"


def _right(title: str) -> str:
    return title


def _cells(cost: Estimate) -> list[str]:
    return [
        f"{cost.sequences:,}" if cost.sequences else "",
        f"{cost.tokens:,}" if cost.tokens else "",
        _duration(cost.seconds) if cost.seconds else "",
        _bytes(cost.disk_bytes) if cost.disk_bytes else "",
        _bytes(cost.memory_bytes) if cost.memory_bytes else "",
    ]


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
