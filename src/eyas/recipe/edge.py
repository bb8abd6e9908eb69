"""The stages that bring a model to a device: files in its formats, each checked, then measured side by side."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from eyas.recipe.stage import Kind, StageSpec

Format = Literal[
    "gguf-f16", "gguf-q8_0", "gguf-q4_0", "gguf-q4_k_m", "onnx-fp32", "onnx-fp16", "ort-genai-int4", "ascend", "w8a8",
    "safetensors",
]  # fmt: skip
"""What a file is for, and what its numbers are: docs/deployment.md."""

NOT_RUN_HERE: tuple[Format, ...] = ("ascend", "w8a8", "safetensors")
"""Formats that no runtime runs on a CPU: neither asked the held-out examples nor measured."""
FIXED_SHAPES: tuple[Format, ...] = ("onnx-fp32", "onnx-fp16", "ascend")
"""Formats of graphs that each take one number of tokens: those that `SHAPE` decides."""
SHAPE = ("context_length", "prefill_lengths")
"""Fields of an export stage that only FIXED_SHAPES read."""


class ExportStage(StageSpec):
    """Files for a device, made of evaluated models; each must pass its gates, or the stage fails with the numbers.

    A recipe writes one such stage; `expand` makes one per model and format, named `NAME.ROLE.FORMAT`, so that what
    passed is kept whatever fails after it.
    """

    version: ClassVar[int] = 2
    makes: ClassVar[Kind] = "export"
    type: Literal["export"]
    models: tuple[str, ...] = Field(default=("distilled", "teacher"), min_length=1)
    """Roles of the evaluation whose models are exported; the teacher too, to compare with at the same format."""
    formats: tuple[Format, ...] = Field(default=("gguf-f16", "gguf-q8_0"), min_length=1)
    """In which every model is written."""
    evaluation: str = "evaluate"
    """The evaluate stage that the roles belong to; the files answer its held-out examples in its modes, greedily."""
    examples: int | None = Field(default=None, ge=0)
    """Held-out examples that every file answers in each mode; by default all, 0 for none and no accuracy."""
    max_loss: float = Field(default=0.02, ge=0, le=1)
    """A file fails where it is shown (95 % interval) to lose more accuracy than this to its model, in either mode.
    The default, 2 points, is eyas's margin for a quantised file that is as good as its model. With another value the
    answers that are there are judged anew."""
    parity_prompts: int = Field(default=16, ge=1)
    """Held-out prompts on which log-probs and greedy answers (64 tokens at most) are compared with the model's."""
    context_length: int | None = Field(default=None, ge=2)
    """Tokens of prompt and completion in formats of fixed shapes (ONNX, Ascend); by default the model's own, at most
    1,024."""
    prefill_lengths: tuple[Annotated[int, Field(ge=1)], ...] = (64, 256)
    """Tokens a prefill graph takes, one graph each, in formats of fixed shapes; 1 is always there."""
    model: str | None = None
    """Stage whose weights are exported; set by `expand`."""
    data: str | None = None
    """The prepare stage with the held-out examples; set by `expand`."""

    def references(self) -> dict[str, tuple[str, Kind]]:
        found: dict[str, tuple[str, Kind]] = {"evaluation": (self.evaluation, "evaluation")}
        if self.model is not None:
            found["model"] = (self.model, "model")
        if self.data is not None:
            found["data"] = (self.data, "examples")
        return found


class BenchStage(StageSpec):
    """TTFT, TPOT, tokens a second, memory and size of exported files on this machine, measured in turns.

    docs/bench.md says what each figure is.
    """

    makes: ClassVar[Kind] = "bench"
    type: Literal["bench"]
    exports: tuple[str, ...] = Field(default=("export",), min_length=1)
    """The export stages whose files are measured."""
    prompt_tokens: int = Field(default=512, ge=1)
    """Tokens of the prompt, llama-bench's pp512; fewer where a file's context is too small, the same for all files."""
    completion_tokens: int = Field(default=128, ge=2)
    """Tokens generated after it, llama-bench's tg128; fewer likewise."""
    rounds: int = Field(default=5, ge=2)
    """Times that every file is opened in a process of its own and measured, in turns with the others."""
    files: tuple[str, ...] = ()
    """Expanded export stages; set by `expand`."""

    @model_validator(mode="after")
    def _distinct(self) -> BenchStage:
        if len(set(self.exports)) < len(self.exports):
            raise ValueError("`exports` names a stage twice")
        return self

    def references(self) -> dict[str, tuple[str, Kind]]:
        return {f"export:{name}": (name, "export") for name in self.files}
