"""The parts that recipes are made of: thinking formats, training, sampling, execution."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt, model_validator

from eyas.records import Mode

RESERVED = ("student", "teacher")
"""What a recipe calls its two models, so no stage may be called so."""


class Spec(BaseModel):
    """Base of everything in a recipe: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, use_attribute_docstrings=True)


class ThinkingSpec(Spec):
    """How a model is told to think or not, and how its thinking is marked."""

    open: str = "<think>\n"
    """Text that opens a thinking block."""
    close: str = "\n</think>\n\n"
    """Text that closes a thinking block."""
    switch: str = ""
    """Text appended to the last user message in fast mode (`/no_think` for openPangu)."""
    template_argument: str | None = None
    """Chat-template variable that is set true for reasoning and false for fast (`enable_thinking` for Qwen3)."""
    empty: Literal["prompt", "completion", "none"] = "prompt"
    """Where a fast answer's empty block stands: appended to the prompt by us, written by the model
    itself, or nowhere because the chat template or nobody writes it."""


THINKING_FORMATS: dict[str, ThinkingSpec] = {
    "plain": ThinkingSpec(),
    "qwen3": ThinkingSpec(template_argument="enable_thinking", empty="none"),
    "pangu": ThinkingSpec(open="[unused16]", close="[unused17]", switch=" /no_think", empty="completion"),
}
"""plain: any model, we write the empty block. qwen3: the template does (Qwen3 model card).
pangu: openPangu-Embedded's card (`/no_think`, the pair [unused16] [unused17])."""


def _as_thinking(value: object) -> object:
    if isinstance(value, str):
        if value not in THINKING_FORMATS:
            raise ValueError(f"unknown thinking format {value!r}; known: {', '.join(THINKING_FORMATS)}")
        return THINKING_FORMATS[value]
    return value


Thinking = Annotated[ThinkingSpec, BeforeValidator(_as_thinking)]


class LoraSpec(Spec):
    """Low-rank adaptation (arXiv 2106.09685) through peft; merged into the weights at the end."""

    rank: int = Field(default=16, ge=1)
    """Rank r of the adapters, which sit on every linear layer but the head."""
    alpha: int = 32
    """The adapters' output is scaled by alpha / rank; the default is twice the default rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the adapters' inputs that is zeroed in training."""


class TrainingSpec(Spec):
    """The optimiser's view of a stage: AdamW, one learning-rate schedule, sequences per step."""

    batch_size: int = Field(default=64, ge=1)
    """Sequences per optimiser step, over all devices; how they are cut into micro-batches is `execution`."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the sequences. Give at most one of `epochs`, `steps` and a token match; default 1 epoch."""
    steps: int | None = Field(default=None, ge=1)
    """Optimiser steps."""
    learning_rate: float = Field(default=1e-5, gt=0)
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the learning rate after warm-up."""
    warmup: float = Field(default=0.03, ge=0, lt=1)
    """Share of the steps over which the learning rate rises from zero."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's decoupled weight decay (arXiv 1711.05101); none by default."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates of the gradient's first and second moment; the defaults are Llama 2's (arXiv 2307.09288)."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """The gradient is scaled down to this L2 norm over all weights; NPD's 1.0 (arXiv 2605.05940)."""
    packing: Literal["auto"] | StrictBool = "auto"
    """Whether a micro-batch is one row without padding, its sequences kept apart in attention, instead of a row for
    each, padded to the longest. The result is the same. `auto` packs where padding costs more, as it does but in tiny
    models, and where the model computes in a packed row what it computes for each sequence alone, which is tried on a
    few sequences; `true` packs in any case, and it is an error if the model does not."""
    max_length: int = Field(default=2048, ge=8)
    """Longer sequences are dropped and counted."""
    lora: LoraSpec | None = None
    """Train low-rank adapters instead of all weights."""

    @model_validator(mode="after")
    def _one_length(self) -> TrainingSpec:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("give `epochs` or `steps`, not both")
        return self


class SamplingSpec(Spec):
    """How completions are drawn."""

    temperature: float = Field(default=1.0, ge=0)
    """0 is greedy."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus sampling (arXiv 1904.09751); 1 keeps the whole distribution."""
    min_p: float = Field(default=0.0, ge=0, le=1)
    """Of these, tokens with this share of the likeliest one's probability or more (arXiv 2407.01082); 0 keeps all."""
    max_completion_tokens: int = Field(default=256, ge=1)
    """A completion that reaches this is cut, gets no EOS and the finish reason `length`."""


class ExecutionSpec(Spec):
    """How the work is cut for this machine. Not part of any fingerprint: changing it redoes nothing.

    No default measures a time, so that a recipe run twice on one machine computes the same bits. What `auto` measures
    (on a CPU; elsewhere it is the default) is written down before a stage's first step, kept when the stage is resumed,
    and remembered in `$XDG_CACHE_HOME/eyas` for stages of the same shape.
    """

    micro_batch_size: int = Field(default=16, ge=1)
    """Sequences per forward and backward pass; lower it when training runs out of memory."""
    generation_batch_size: int = Field(default=64, ge=1)
    """Sequences decoded together; lower it when rollouts or evaluation run out of memory."""
    scoring_batch_size: int = Field(default=16, ge=1)
    """Sequences the teacher prefills together; lower it when scoring runs out of memory."""
    checkpoint_every: int = Field(default=100, ge=1)
    """Optimiser steps between checkpoints."""
    threads: Annotated[StrictInt, Field(ge=1)] | Literal["auto"] | None = None
    """CPU threads; by default as many as cores this process may use. `auto`: every training stage tries one, half the
    cores and all of them on its first micro-batches and keeps the fastest."""
    precision: Literal["auto", "float32", "bfloat16"] | None = None
    """What training computes in, its weights being float32 always; by default the model's own type. `auto`: bfloat16
    where the CPU multiplies it in hardware, it is faster, and the loss of the first micro-batches stays within 1 %."""
    compile: Literal["auto"] | StrictBool = False
    """Whether training goes through torch.compile. `auto`: where the time it saves over the stage's steps is measured
    to exceed the time it takes. If it fails training goes on without it and the manifest says so."""
    device: str = Field(default="auto", pattern=r"^[a-z]+$")
    """`auto`, `cpu`, `cuda`, `npu`, …: the kind alone; CUDA_VISIBLE_DEVICES and its like choose the card."""
    trackers: tuple[str, ...] = ("tensorboard",)
    """The Trainer's `report_to`: tensorboard, wandb, mlflow, …"""


ModeMix = dict[Mode, float]
"""Share of each mode, for instance {reasoning: 3, fast: 1}."""
