"""What a stage will roughly cost: tokens, seconds, disk, memory. Arithmetic on shapes, no measuring here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from eyas.losses import CHUNK_ELEMENTS
from eyas.recipe import (
    NOT_RUN_HERE,
    BenchStage,
    DistillStage,
    EvaluateStage,
    ExecutionSpec,
    ExportStage,
    Format,
    PrepareStage,
    RolloutStage,
    ScoreStage,
    SftStage,
    Stage,
    SynthesizeStage,
)
from eyas.records import Mode
from eyas.storage.checkpoints import KEPT

TRAIN_EFFICIENCY = 0.4
"""Share of the measured matrix-multiply speed that training reaches; small models on CPU measured 0.2 to 0.6."""
STEP_OVERHEAD_S = 0.012
"""Python and kernel-launch time of one forward pass, which dominates below ten million parameters."""
TRAINING_PASSES = 3
"""A training step in forward passes: the backward pass computes twice what the forward does."""
BATCH_TAIL = 1.5
"""Decoding steps of a batch over its mean completion: it lasts until its longest one ends."""
COPIES = 2
"""Logits are there twice, beside their softmax."""
FLOAT_BYTES = 4
"""Weights, activations and logits are fp32."""
BYTES_PER_TRAINED_PARAMETER = 16
"""Weights, gradients and two AdamW moments in fp32."""
BYTES_PER_CHECKPOINT_PARAMETER = 12
"""Weights and two AdamW moments in fp32, on disk."""
ACTIVATIONS_PER_LAYER = 17
"""A layer's activations over its hidden size, a token: 34 bytes in 16 bits, no attention maps (arXiv 2205.05198)."""
PREPARE_S = 1e-4
"""Making, hashing and filtering one example; the quickstart's 7,800 took 0.4 s, text takes longer."""
EXAMPLE_BYTES = 100
"""An example on disk after zstd: 20 in the quickstart, a few hundred where prompts are paragraphs."""
RENDER_S = 1.0
"""Rendering references as sequences: no model runs, only a tokenizer."""
BYTES_PER_TOKEN = 6
"""Ids, log-prob and text of a sampled token after zstd; 3 to 4 in the quickstart, more in a large vocabulary."""
BYTES_PER_SCORE_ENTRY = 2.1
"""A cached entry on disk after zstd, id and code (docs/cache.md)."""
BYTES_PER_SCORED_TOKEN = 2.5
"""What a scored token has beside its entries: its own log-prob and the tail's."""
DRAWN_ENTRIES = 12
"""Different ids among the 50 draws of a random-sampling target (arXiv 2503.16870)."""
EXPORT_S = 15.0
"""Starting the converter, writing a file and comparing it with the model on its answers to sixteen prompts: 8 to 20 s
for the embedded pair."""
SINGLE_EFFICIENCY = 0.05
"""Share of the measured matrix-multiply speed with one sequence: bound by memory, not by arithmetic."""
SINGLE_OVERHEAD_S = 1e-4
"""A token of a tiny model in a runtime."""
BENCH_START_S = 2.0
"""A process of its own for every file and round, with its warm-up."""
BITS: Mapping[Format, float] = {
    "gguf-f16": 16, "gguf-q8_0": 8.5, "gguf-q4_0": 5, "gguf-q4_k_m": 5, "onnx-fp32": 32, "onnx-fp16": 16, "ascend": 16,
    "ort-genai-int4": 5, "w8a8": 9, "safetensors": 32,
}  # fmt: skip
"""Per weight of a file; with four bits the embedding is finer."""


@dataclass(frozen=True)
class ModelSize:
    """Shape of a model as far as cost depends on it."""

    parameters: int
    layers: int
    hidden: int
    kv_width: int
    """Key-value heads times head dimension."""
    vocabulary: int


@dataclass(frozen=True)
class Machine:
    """What was probed: matrix-multiply speed, memory in all of the device that computes."""

    flop_per_s: float
    memory_bytes: int


@dataclass(frozen=True)
class Estimate:
    """Expected cost of a stage."""

    sequences: int = 0
    tokens: int = 0
    """Prompt and completion tokens that go through a model."""
    seconds: float = 0.0
    disk_bytes: int = 0
    memory_bytes: int = 0


@dataclass(frozen=True)
class Lengths:
    """Mean tokens of a sample, by mode."""

    prompt: Mapping[Mode, float]
    completion: Mapping[Mode, float]

    def sequence(self, mode: Mode) -> float:
        """Mean tokens of prompt and completion."""
        return self.prompt[mode] + self.completion[mode]

    def completion_share(self) -> float:
        """Completion tokens over all tokens, the modes taken alike."""
        return sum(self.completion.values()) / sum(map(self.sequence, self.prompt))


class Estimator:
    """Walks the expanded stages in order and remembers what later stages multiply."""

    def __init__(
        self, *, sizes: Mapping[str, ModelSize], lengths: Lengths, machine: Machine, execution: ExecutionSpec
    ) -> None:
        self._sizes = dict(sizes)
        self._lengths, self._machine, self._execution = lengths, machine, execution
        self._examples: dict[str, PrepareStage] = {}
        self._made: dict[str, Estimate] = {}
        self._token_s: dict[str, float] = {}
        """Of exported files, by stage."""

    def estimate(self, stage: Stage, *, matched: tuple[str, ...] = ()) -> Estimate:
        """Cost of the next stage; `matched` are the stages whose tokens or seconds it must equal."""
        made = Estimate()
        if isinstance(stage, PrepareStage):
            self._examples[stage.name] = stage
            count = stage.labelled + stage.unlabelled + stage.validation + stage.test
            count += stage.off_task_count if stage.off_task else 0
            made = Estimate(sequences=count, seconds=count * PREPARE_S, disk_bytes=count * EXAMPLE_BYTES)
        elif isinstance(stage, SftStage | DistillStage):
            made = self._training(stage, matched)
            if isinstance(stage, SftStage) and stage.select == "best":
                made = self._with_selection(stage, made)
            self._sizes[stage.name] = self._sizes[stage.model]
        elif isinstance(stage, RolloutStage):
            made = self._rollout(stage)
        elif isinstance(stage, SynthesizeStage) and stage.sequences is not None:
            sampled = self._made[stage.sequences]  # at most one of a prompt's samples is kept
            made = Estimate(sequences=sampled.sequences // stage.samples_per_prompt, seconds=RENDER_S)
        elif isinstance(stage, ScoreStage):
            made = self._score(stage)
        elif isinstance(stage, EvaluateStage):
            made = self._evaluation(stage)
        elif isinstance(stage, ExportStage) and stage.model is not None and stage.data is not None:
            made = self._export(stage, self._sizes[stage.model], self._examples[stage.data])
        elif isinstance(stage, BenchStage):
            made = self._bench(stage)
        self._made[stage.name] = made
        return made

    def _training(self, stage: SftStage | DistillStage, matched: tuple[str, ...]) -> Estimate:
        size = self._sizes[stage.model]
        data = self._examples[stage.data]
        modes = stage.modes or dict.fromkeys(self._lengths.prompt, 1.0)
        mean = sum(share * self._lengths.sequence(mode) for mode, share in modes.items()) / sum(modes.values())
        source = stage.scores if isinstance(stage, DistillStage) else stage.sequences
        available = self._made[source].sequences if source else data.labelled * len(modes)
        steps = stage.training.steps or max(
            1, round(available * (stage.training.epochs or 1) / stage.training.batch_size)
        )
        tokens = round(steps * stage.training.batch_size * mean)
        if isinstance(stage, SftStage) and stage.match_tokens:
            tokens = sum(self._made[name].tokens for name in matched if name in self._sizes)
        seconds = self._forward_seconds(size, tokens, mean) * TRAINING_PASSES
        if isinstance(stage, DistillStage) and stage.selection.delta_ifd is not None:
            prefilled = round(available * mean)
            seconds += self._forward_seconds(size, prefilled, mean) * (1 + self._lengths.completion_share())
        if isinstance(stage, SftStage) and stage.match_seconds:
            seconds, tokens = self._match_seconds(matched, seconds, tokens)
        positions = self._execution.micro_batch_size * mean
        activations = positions * size.layers * size.hidden * ACTIVATIONS_PER_LAYER * FLOAT_BYTES
        per_parameter = BYTES_PER_TRAINED_PARAMETER if stage.training.lora is None else FLOAT_BYTES
        return Estimate(
            sequences=round(tokens / mean),
            tokens=tokens,
            seconds=seconds,
            disk_bytes=size.parameters * (FLOAT_BYTES + KEPT * BYTES_PER_CHECKPOINT_PARAMETER),
            memory_bytes=round(size.parameters * per_parameter + activations + _logit_bytes(size, positions)),
        )

    def _with_selection(self, stage: SftStage, training: Estimate) -> Estimate:
        """The training with its validation answers, and the best candidate's weights on disk."""
        prompts = self._examples[stage.data].validation * stage.selections
        size = self._sizes[stage.model]
        answers = self._generation(size, dict.fromkeys(stage.modes, prompts))
        return replace(
            training,
            seconds=training.seconds + answers.seconds,
            disk_bytes=training.disk_bytes + size.parameters * FLOAT_BYTES,
            memory_bytes=training.memory_bytes + answers.memory_bytes - size.parameters * FLOAT_BYTES,
        )

    def _match_seconds(self, matched: tuple[str, ...], seconds: float, tokens: int) -> tuple[float, int]:
        wanted = sum(self._made[name].seconds for name in matched)
        return wanted, round(tokens * wanted / seconds) if seconds else tokens

    def _rollout(self, stage: RolloutStage) -> Estimate:
        data = self._examples[stage.data]
        counts = {"labelled": data.labelled, "unlabelled": data.unlabelled, "validation": data.validation}
        prompts = counts.get(stage.prompts, data.labelled + data.unlabelled)
        prompts = min(prompts, stage.count or prompts)
        per_mode = prompts * stage.samples_per_prompt
        if stage.prefix == "label":
            return Estimate(sequences=per_mode * len(stage.modes), seconds=RENDER_S)
        return self._generation(self._sizes[stage.model], dict.fromkeys(stage.modes, per_mode))

    def _evaluation(self, stage: EvaluateStage) -> Estimate:
        data = self._examples[stage.data]
        prompts = data.test + (data.off_task_count if data.off_task else 0)
        (model,) = stage.models.values()
        return self._generation(self._sizes[model], dict.fromkeys(stage.modes, prompts * stage.samples_per_prompt))

    def _export(self, stage: ExportStage, size: ModelSize, data: PrepareStage) -> Estimate:
        """One file: written, compared, and asked the held-out examples one after the other."""
        asked = 0 if stage.formats[0] in NOT_RUN_HERE else stage.examples
        examples = data.test if asked is None else min(asked, data.test)
        completions = examples * sum(self._lengths.completion.values())
        self._token_s[stage.name] = self._single_token_s(size)
        return Estimate(
            sequences=examples * len(self._lengths.prompt),
            tokens=round(examples * sum(map(self._lengths.sequence, self._lengths.prompt))),
            seconds=EXPORT_S + completions * self._token_s[stage.name],
            disk_bytes=round(size.parameters * BITS[stage.formats[0]] / 8),
            memory_bytes=3 * size.parameters * FLOAT_BYTES,  # the model, the file, the converter's copy
        )

    def _bench(self, stage: BenchStage) -> Estimate:
        tokens = stage.rounds * (stage.prompt_tokens + stage.completion_tokens)
        decoded = stage.rounds * stage.completion_tokens
        seconds = sum(decoded * self._token_s[name] + stage.rounds * BENCH_START_S for name in stage.files)
        return Estimate(sequences=stage.rounds * len(stage.files), tokens=tokens * len(stage.files), seconds=seconds)

    def _single_token_s(self, size: ModelSize) -> float:
        return SINGLE_OVERHEAD_S + 2 * size.parameters / (self._machine.flop_per_s * SINGLE_EFFICIENCY)

    def _generation(self, size: ModelSize, prompts: Mapping[Mode, int]) -> Estimate:
        batch = self._execution.generation_batch_size
        seconds = 0.0
        tokens = 0.0
        for mode, count in prompts.items():
            steps = self._lengths.completion[mode] * BATCH_TAIL * count / batch
            step_s = max(STEP_OVERHEAD_S, 2 * size.parameters * batch / (self._machine.flop_per_s * TRAIN_EFFICIENCY))
            seconds += steps * step_s
            tokens += count * self._lengths.sequence(mode)
        longest = max(self._lengths.sequence(mode) for mode in prompts)
        keys_and_values = 2 * size.layers * size.kv_width
        cache = batch * longest * keys_and_values * FLOAT_BYTES
        return Estimate(
            sequences=sum(prompts.values()),
            tokens=round(tokens),
            seconds=seconds,
            disk_bytes=round(tokens * BYTES_PER_TOKEN),
            memory_bytes=round(2 * size.parameters * FLOAT_BYTES + cache),  # weights are laid out once more
        )

    def _score(self, stage: ScoreStage) -> Estimate:
        made = self._made[stage.sequences]
        size = self._sizes[stage.model]
        tokens = made.tokens or round(made.sequences * max(map(self._lengths.sequence, self._lengths.prompt)))
        mean = tokens / made.sequences if made.sequences else 1.0
        positions = self._execution.scoring_batch_size * mean
        activations = positions * size.hidden * ACTIVATIONS_PER_LAYER * FLOAT_BYTES
        entries = stage.top_k if stage.target == "top_k" else min(stage.samples, DRAWN_ENTRIES)
        per_token = entries * BYTES_PER_SCORE_ENTRY + BYTES_PER_SCORED_TOKEN
        return Estimate(
            sequences=made.sequences,
            tokens=tokens,
            seconds=self._forward_seconds(size, tokens, mean)
            * (1 + stage.unconditional * self._lengths.completion_share()),
            disk_bytes=round(tokens * self._lengths.completion_share() * per_token),
            memory_bytes=round(size.parameters * FLOAT_BYTES + activations + _logit_bytes(size, positions)),
        )

    def _forward_seconds(self, size: ModelSize, tokens: int, mean: float) -> float:
        passes = tokens / (mean * self._execution.micro_batch_size)
        compute = 2 * size.parameters * tokens / (self._machine.flop_per_s * TRAIN_EFFICIENCY)
        return compute + passes * STEP_OVERHEAD_S


def _logit_bytes(size: ModelSize, positions: float) -> float:
    """The head runs on chunks of CHUNK_ELEMENTS logits (eyas.losses)."""
    return min(positions * size.vocabulary, CHUNK_ELEMENTS) * FLOAT_BYTES * COPIES
