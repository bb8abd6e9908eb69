"""`eyas plan`: what would run and why, what it would cost, and whether the two models fit together."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from eyas.errors import ArtifactError
from eyas.estimates import Estimate, Estimator, Lengths, Machine, ModelSize
from eyas.graph import Node, build_graph
from eyas.preflight import check_recipe, recipe_modes, sample_examples
from eyas.recipe import ExecutionSpec, FileSource, ModelSpec, PrepareStage, Recipe, SamplingSpec
from eyas.records import Mode
from eyas.storage.artifacts import MANIFEST, damaged_files, read_json
from eyas.storage.models import load_outline
from eyas.storage.processor import total_memory_bytes
from eyas.storage.tokenization import encode_prompt, label_sequence, load_tokenizer, stop_ids
from eyas.tasks.files import expected_rows

DONE = "done, skipped"
NAMED_DIFFERENCES = 3
"""An earlier artifact that differs in more fields than this explains nothing."""
LOWER = {"rollout": "generation_batch_size", "evaluate": "generation_batch_size", "score": "scoring_batch_size"}
"""Stage type -> the execution setting that its memory follows; that of training is `micro_batch_size`."""


def print_plan(recipe: Recipe, *, workspace: Path) -> None:
    """Print the plan. Reads data, tokenizers and configs, no weights; writes nothing to the workspace.

    Raises: PairMismatch, ModelError, DataError or ExportError, if the run would not get past its first checks.
    """
    console = Console(highlight=False)
    nodes = build_graph(recipe, workspace=workspace)
    with TemporaryDirectory() as scratch:
        paths, report = check_recipe(recipe, nodes, Path(scratch))
        sizes = {name: size_of(path) for name, path in paths.items()}
        lengths = sample_lengths(recipe, paths["student"])
    machine = probe_machine()
    costs = estimated(recipe, nodes, sizes=sizes, lengths=lengths, machine=machine)
    states = states_of(nodes, workspace=workspace)
    console.print(
        _table(
            nodes, states, costs, title=f"{recipe.name}: {len(nodes)} artifacts in {escape(str(workspace))}/artifacts"
        )
    )
    for line in report.lines():
        console.print(line)
    for name, size in sizes.items():
        chosen = chosen_layers(next(node for node in nodes if node.name == name))
        console.print(f"{name}: {size.parameters / 1e6:,.2f} M parameters, {size.layers} layers{chosen}")
    to_do = [node for node in nodes if states[node.name] != DONE]
    console.print(_total([costs[node.name] for node in to_do], machine))
    if warning := memory_warning(to_do, costs, machine=machine, execution=recipe.execution):
        console.print(warning, style="bold yellow", soft_wrap=True)


def chosen_layers(node: Node) -> str:
    """How a model's layers are, or were, chosen by measuring; empty where nothing is measured."""
    prune = node.stage.prune if isinstance(node.stage, ModelSpec) else None
    if prune is None:
        return ""
    made = node.finished()
    if made is None:
        return f", which ones is decided by {prune.by} when it runs, on at most {prune.examples} examples"
    kept = ", ".join(map(str, made.facts["pruning"]["kept"]))
    return f", chosen by {prune.by} on {made.facts['pruning']['sequences']} examples: {kept}"


def estimated(
    recipe: Recipe, nodes: Sequence[Node], *, sizes: Mapping[str, ModelSize], lengths: Lengths, machine: Machine
) -> dict[str, Estimate]:
    """Node name -> what making it would cost. `sizes` are those of the student and the teacher."""
    estimator = Estimator(sizes=sizes, lengths=lengths, machine=machine, execution=recipe.execution)
    return {node.name: _cost(node, estimator) for node in nodes}


def checked_seconds(recipe: Recipe, nodes: Sequence[Node], *, machine: Machine) -> dict[str, float]:
    """Node name -> about how long making it would take, the pair checked as before a run.

    Raises: PairMismatch, ModelError, DataError or ExportError, if the run would not get past its first checks.
    """
    with TemporaryDirectory() as scratch:
        paths, _ = check_recipe(recipe, nodes, Path(scratch))
        sizes = {name: size_of(path) for name, path in paths.items()}
        lengths = sample_lengths(recipe, paths["student"])
    costs = estimated(recipe, nodes, sizes=sizes, lengths=lengths, machine=machine)
    return {name: cost.seconds for name, cost in costs.items()}


def size_of(path: Path) -> ModelSize:
    """Shape of the model in a Hugging Face directory, from its config alone.

    Raises: ModelError, if the config is of no causal language model.
    """
    model = load_outline(path)
    config: Any = model.config
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
    flop_per_s = 2 * side**3 * rounds / (time.perf_counter() - started)
    memory = torch.cuda.get_device_properties(0).total_memory if device == "cuda" else total_memory_bytes()
    return Machine(flop_per_s=flop_per_s, memory_bytes=memory)


def _cost(node: Node, estimator: Estimator) -> Estimate:
    if isinstance(node.stage, ModelSpec):
        return Estimate()
    stage = within_files(node.stage) if isinstance(node.stage, PrepareStage) else node.stage
    return estimator.estimate(stage, matched=node.rounds)


def within_files(stage: PrepareStage) -> PrepareStage:
    """The stage asking for no more examples than its local files have, by their number of lines."""
    counts: dict[str, int] = {}
    if isinstance(stage.source, FileSource):
        train, validation, test = (
            expected_rows(stage.source, split=split) for split in ("train", "validation", "test")
        )
        labelled = min(stage.labelled, train)
        counts |= {
            "labelled": labelled,
            "unlabelled": min(stage.unlabelled, train - labelled),
            "validation": min(stage.validation, validation),
            "test": min(stage.test, test),
        }
    if isinstance(stage.off_task, FileSource):
        counts["off_task_count"] = min(stage.off_task_count, expected_rows(stage.off_task, split="test"))
    return stage.model_copy(update=counts)


def states_of(nodes: Sequence[Node], *, workspace: Path) -> dict[str, str]:
    """Node name -> whether a run would skip, continue or make it and, where that can be known, why."""
    earlier = _manifests(workspace, besides={node.directory for node in nodes})
    fingerprints = {node.name: node.fingerprint for node in nodes}
    states: dict[str, str] = {}
    for node in nodes:
        made = node.finished()
        pending = [name for name, state in states.items() if name in node.inputs.values() and state != DONE]
        if made is not None:
            states[node.name] = "damaged, redone" if damaged_files(made) else DONE
        elif node.directory.is_dir() and any(item for item in node.directory.iterdir() if item.name[0] != "."):
            states[node.name] = "begun, continues"
        elif pending:
            states[node.name] = f"to do, after {pending[-1]}"
        else:
            inputs = {field: fingerprints[name] for field, name in node.inputs.items()}
            similar = [found["config"] | found["inputs"] for found in earlier if found["stage"] == node.type]
            hidden = "weights or version" if node.type == "model" else "seed, thinking format or version"
            states[node.name] = _difference({**node.config, **inputs}, similar, hidden=hidden)
    return states


def _manifests(workspace: Path, *, besides: set[Path]) -> list[dict[str, Any]]:
    found = []
    for path in sorted((workspace / "artifacts").glob(f"*/{MANIFEST}")):
        if path.parent not in besides:
            try:
                found.append(read_json(path))
            except ArtifactError:
                continue
    return found


def _difference(config: Mapping[str, Any], earlier: Sequence[Mapping[str, Any]], *, hidden: str) -> str:
    """Why a node whose inputs are all there is to be made: in what the most similar earlier artifact differs.

    `hidden` is what else decides its fingerprint.
    """
    fields = min((_differing(config, found) for found in earlier), key=len, default=None)
    if fields is None or len(fields) > NAMED_DIFFERENCES:
        return "to do"
    return f"to do, an earlier one differs in {', '.join(fields) or hidden}"


def _differing(config: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the fields in which two configs differ."""
    fields: list[str] = []
    for name in sorted(config.keys() | other.keys()):
        ours, theirs = config.get(name), other.get(name)
        if isinstance(ours, dict) and isinstance(theirs, dict):
            fields += _differing(ours, theirs, f"{prefix}{name}.")
        elif ours != theirs:
            fields.append(prefix + name)
    return fields


def _table(nodes: Sequence[Node], states: Mapping[str, str], costs: Mapping[str, Estimate], *, title: str) -> Table:
    names = ("sequences", "tokens", "time", "disk", "memory")
    numbers = (Column(name, justify="right", no_wrap=True) for name in names)
    words = (Column(name, overflow="fold") for name in ("stage", "state"))
    table = Table(*words, *numbers, title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for node in nodes:
        table.add_row(node.name, states[node.name], *_cells(costs[node.name]))
    return table


def _cells(cost: Estimate) -> list[str]:
    return [
        f"{cost.sequences:,}" if cost.sequences else "",
        _millions(cost.tokens) if cost.tokens else "",
        _duration(cost.seconds) if cost.seconds else "",
        _bytes(cost.disk_bytes) if cost.disk_bytes else "",
        _bytes(cost.memory_bytes) if cost.memory_bytes else "",
    ]


def _total(costs: Sequence[Estimate], machine: Machine) -> str:
    return (
        f"To do: about {_duration(sum(cost.seconds for cost in costs))}, "
        f"{_millions(sum(cost.tokens for cost in costs))} tokens, "
        f"{_bytes(sum(cost.disk_bytes for cost in costs))} of disk, "
        f"{_bytes(max((cost.memory_bytes for cost in costs), default=0))} of memory at most "
        f"(this machine has {_bytes(machine.memory_bytes)}). Times are rough: within a factor of two or three."
    )


def memory_warning(
    nodes: Sequence[Node], costs: Mapping[str, Estimate], *, machine: Machine, execution: ExecutionSpec
) -> str:
    """One line on the stage that needs most, if that is more than there is; else empty."""
    largest = max(nodes, key=lambda node: costs[node.name].memory_bytes, default=None)
    if largest is None or costs[largest.name].memory_bytes <= machine.memory_bytes:
        return ""
    setting = LOWER.get(largest.type, "micro_batch_size")
    return (
        f"Warning: {largest.name} needs about {_bytes(costs[largest.name].memory_bytes)} of memory, this machine has "
        f"{_bytes(machine.memory_bytes)}. Lower execution.{setting} (now {getattr(execution, setting)}), or take a "
        "smaller model."
    )


def _millions(count: int) -> str:
    return f"{count / 1e6:,.2f} M" if count >= 1e6 else f"{count:,}"


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
