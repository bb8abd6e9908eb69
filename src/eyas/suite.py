"""The benchmarks that Pangu Embedded and openPangu report, as tasks of lm-evaluation-harness."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Benchmark:
    """One row of a suite's table. All data but the user's own is on the Hugging Face hub."""

    name: str
    task: str | None
    """Task or group of the harness (0.4.13); None where it has none."""
    chat_task: str | None = None
    """The variant for models with a chat template, where it is another."""
    shots: int | None = None
    """Worked examples in the prompt; None leaves it to the task. The paper gives none: these are the usual numbers."""
    metric: str | None = None
    """`metric,filter` as the harness names them; None takes the task's first."""
    chat_metric: str | None = None
    """That of `chat_task`."""
    gated: bool = False
    """Whether the hub asks to accept terms and to log in."""
    runs_code: bool = False
    """Whether it executes what the model writes."""

    def metric_for(self, *, chat: bool) -> str | None:
        """The metric that belongs to `task_for`."""
        return self.chat_metric or self.metric if chat else self.metric

    def task_for(self, *, chat: bool) -> str | None:
        """The task for a model that is, or is not, asked through its chat template."""
        return self.chat_task or self.task if chat else self.task


PAPER = (
    Benchmark("MMLU", "mmlu", shots=5, metric="acc,none"),
    Benchmark("CMMLU", "cmmlu", shots=5, metric="acc,none"),
    Benchmark("C-Eval (validation)", "ceval-valid", shots=5, metric="acc,none"),
    Benchmark("CLUEWSC", None),
    Benchmark("IFEval (prompt, strict)", "ifeval", metric="prompt_level_strict_acc,none"),
    Benchmark("GSM8K", "gsm8k", metric="exact_match,flexible-extract"),
    Benchmark("MATH-500", "minerva_math500", metric="math_verify,none"),
    Benchmark("DROP (F1)", "drop", shots=3, metric="f1,none"),
    Benchmark(
        "GPQA-Diamond",
        "gpqa_diamond_zeroshot",
        chat_task="gpqa_diamond_cot_zeroshot",
        chat_metric="exact_match,flexible-extract",
        gated=True,
    ),
    Benchmark("MBPP", "mbpp", chat_task="mbpp_instruct", runs_code=True),
    Benchmark("HumanEval", "humaneval", chat_task="humaneval_instruct", runs_code=True),
)
"""arXiv 2505.22375 and 2509.26497. C-Eval's test answers are not public, so the harness takes its validation part."""
SUITES = {"paper": PAPER}
