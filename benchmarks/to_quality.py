"""Whole cost to the same quality, nano pair: TRL on-policy against our offline distillation, from one SFT checkpoint.

    python benchmarks/to_quality.py [--short] [--seeds 0 1 2]

The task is the quickstart's: three-term sums, 1,000 labels for SFT, 4,000 prompts without an answer, both modes.
Quality is three numbers on held-out problems, measured by the same code: KL(teacher || student) on fixed completions by
the teacher, the same on fixed ones by the SFT student, and greedy accuracy over both modes. TRL runs for its budget of
sequences with the best setting of a sweep (learning rate, beta, threads; the stable trainer has no lambda, it is always
on-policy) at each of two batch sizes, a row each. We try growing budgets and take the first that is as good, if the
next one is too: at most the same divergences, and an accuracy not lower by more than its standard error. Our setting is
from a sweep of as many on the same seed, one that is not compared (to_quality_sweep.py). Seconds are those of whole
calls, ours the mean of two, with rollouts and scoring; both with their trainer's start-up, neither with the evaluation.
Both rates fall in a cosine. Short: one seed, fewer sequences, TRL at the first batch size.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import measure
import ours
import peers
import torch
from transformers import PreTrainedModel

import eyas.builtin
from eyas.engines.respondent import Job, Respondent
from eyas.recipe import THINKING_FORMATS, ArithmeticSource, LossSpec, SamplingSpec, TrainingSpec
from eyas.records import MODES, Example, SequenceRecord
from eyas.storage.batches import TrainingItem
from eyas.storage.models import load_model
from eyas.storage.tokenization import encode_prompt, label_sequence, load_tokenizer, stop_ids, vocabulary_size
from eyas.tasks import load_examples

BUILTIN = Path(eyas.builtin.__file__).parent
THINKING = THINKING_FORMATS["qwen3"]
SOURCE = ArithmeticSource(type="arithmetic", terms=(3,))
TOKENS = 48
LABELS, PROMPTS = 1000, 4000
SFT_BATCH, SFT_RATE = 128, 4e-3
KD = LossSpec.model_validate({"lambda": 1.0})
"""TRL's objective has no cross-entropy either."""
BUDGETS = tuple(128 * n for n in (40, 60, 80, *range(100, 325, 25), 400, 600))
"""Our sequences trained on, with repetition, tried in turn."""
TRL: tuple[dict[str, Any], ...] = (
    {"batch_size": 64, "learning_rate": 2e-3, "beta": 0.0, "threads": 2},
    {"batch_size": 128, "learning_rate": 2e-3, "beta": 0.0, "threads": 2},
)
OURS: dict[str, Any] = {"batch_size": 64, "learning_rate": 2e-3, "epochs": 4}
"""The best of the sweeps, on 2 CPU cores: docs/benchmarks.md. Epochs: how often a rollout is trained on."""


@dataclass(frozen=True)
class Quality:
    """What is compared."""

    teacher_kl: float
    student_kl: float
    accuracy: float
    answers: int

    def reaches(self, other: Quality) -> bool:
        """At least as good in the divergences; an accuracy within a standard error is."""
        error = math.sqrt(max(other.accuracy * (1 - other.accuracy), 1e-6) / other.answers)
        return (
            self.teacher_kl <= other.teacher_kl
            and self.student_kl <= other.student_kl
            and self.accuracy >= other.accuracy - error
        )

    def __str__(self) -> str:
        return f"KL {self.teacher_kl:.3f} / {self.student_kl:.3f}, accuracy {100 * self.accuracy:.1f} %"


@dataclass(frozen=True)
class Task:
    """One seed's start and its held-out sets."""

    start: PreTrainedModel
    teacher: Respondent
    teacher_model: PreTrainedModel
    prompts: list[list[int]]
    test: list[Job]
    fixed: dict[str, list[TrainingItem]]
    seed: int


def main() -> None:
    """TRL's budget, then ours until it is as good; a row over the seeds."""
    parser = measure.options(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=None)
    options = parser.parse_args()
    measure.prepare()
    report = measure.Report("to_quality", short=options.short)
    seeds = options.seeds or ([1] if options.short else [0, 1, 2])
    count, held_out = (60 * 128, 200) if options.short else (200 * 128, 500)
    tasks = [make_task(seed, held_out=held_out) for seed in seeds]
    curves = [Curve(task, report) for task in tasks]
    for setting in TRL[:1] if options.short else TRL:
        compare(report, tasks, curves, setting, sequences=count)
    report.finish()


def compare(
    report: measure.Report, tasks: list[Task], curves: list[Curve], setting: dict[str, Any], *, sequences: int
) -> None:  # fmt: skip
    """A row over the seeds, against TRL at one of its settings."""
    own_s, peer_s, texts = [], [], []
    for task, curve in zip(tasks, curves, strict=True):
        spent, goal = run_trl(task, sequences, **setting)
        report.note(**{f"seed {task.seed}, TRL, batch {setting['batch_size']}, {spent:.1f} s": str(goal)})
        own_s.append(curve.cost(goal))
        peer_s.append(spent)
        texts.append(f"{goal}")
    report.add(
        measure.Row(
            what="whole cost to the same divergence and accuracy, nano pair",
            peer="TRL DistillationTrainer, on-policy",
            ours=f"{sum(own_s) / len(own_s):.1f} s",
            theirs=f"{sum(peer_s) / len(peer_s):.1f} s",
            ratios=measure.ratios(own_s, peer_s),
            target=4.0,
            note=f"{len(tasks)} seeds, TRL {sequences} sequences by {setting['batch_size']}: " + "; ".join(texts),
        )
    )


class Curve:
    """Our quality by budget, each budget run once and the accepted ones timed again."""

    def __init__(self, task: Task, report: measure.Report) -> None:
        self._task, self._report = task, report
        self._made: dict[int, tuple[list[float], Quality]] = {}

    def _at(self, budget: int) -> Quality:
        if budget not in self._made:
            spent, made = run_ours(self._task, budget, **OURS)
            self._made[budget] = ([spent], made)
            self._report.note(**{f"seed {self._task.seed}, ours, {budget} sequences, {spent:.1f} s": str(made)})
        return self._made[budget][1]

    def cost(self, goal: Quality) -> float:
        """Seconds of the first budget that is as good as `goal`, if the next one is too.

        Raises: SystemExit, if there is none.
        """
        for budget, after in pairwise(BUDGETS):
            if self._at(budget).reaches(goal) and self._at(after).reaches(goal):
                spent_s = self._made[budget][0]
                if len(spent_s) == 1:
                    spent_s.append(run_ours(self._task, budget, **OURS)[0])
                self._report.note(**{f"seed {self._task.seed}, ours, {budget} sequences, both times": spent_s})
                return sum(spent_s) / len(spent_s)
        raise SystemExit(f"seed {self._task.seed}: no two budgets of ours in turn reach {goal}")


def make_task(seed: int, *, held_out: int) -> Task:
    """The SFT student (reasoning first, then fast answers three to one, as the quickstart), prompts, held-out sets."""
    tokenizer, path = load_tokenizer(BUILTIN / "nano-student"), BUILTIN / "nano-student"
    stop = stop_ids(tokenizer, path)
    train = list(load_examples(SOURCE, split="train", count=LABELS + PROMPTS, seed=seed))
    labels = {
        mode: [label_sequence(tokenizer, item, mode, thinking=THINKING, stop_id=stop[0]) for item in train[:LABELS]]
        for mode in MODES
    }
    student = load_model(path)
    for shares, steps in (({"reasoning": 1}, 125), ({"reasoning": 3, "fast": 1}, 250)):
        data = [TrainingItem(item) for mode in shares for item in labels[mode] if item is not None]
        order = drawn([mode for mode in shares for _ in range(LABELS)], shares, count=steps * SFT_BATCH, seed=seed)
        training = TrainingSpec(batch_size=SFT_BATCH, steps=steps, learning_rate=SFT_RATE)
        ours.training_loop(student, data, order=order, training=training, micro_batch_size=64)(lambda: None)
    student.eval()
    teacher_model = load_model(BUILTIN / "nano-teacher")
    teacher = respondent(teacher_model)
    test: Sequence[Example] = list(load_examples(SOURCE, split="test", count=held_out, seed=seed))
    jobs: list[Job] = [(example, mode, 0) for mode in MODES for example in test]
    fixed = {
        name: scored(teacher, [(r.prompt_ids, r.completion_ids) for r in answers(maker, jobs, seed=seed)])
        for name, maker in (("teacher", teacher), ("student", respondent(student)))
    }
    prompts = [encode_prompt(tokenizer, item, mode, thinking=THINKING) for item in train[LABELS:] for mode in MODES]
    return Task(student, teacher, teacher_model, prompts, jobs, fixed, seed)


def drawn(modes: Sequence[str], shares: dict[str, int], *, count: int, seed: int) -> list[int]:
    """Indices with the modes' shares, with replacement."""
    weights = torch.tensor([shares[mode] / modes.count(mode) for mode in modes])
    picked: list[int] = torch.multinomial(
        weights, count, replacement=True, generator=torch.Generator().manual_seed(seed)
    ).tolist()
    return picked


def respondent(model: PreTrainedModel) -> Respondent:
    """A nano model that answers."""
    path = BUILTIN / "nano-student"
    tokenizer = load_tokenizer(path)
    maker = ours.engine(model, generation=512, scoring=128, vocabulary=vocabulary_size(tokenizer))
    return Respondent(engine=maker, tokenizer=tokenizer, stop=stop_ids(tokenizer, path), thinking=THINKING)


def answers(maker: Respondent, jobs: Sequence[Job], *, seed: int, temperature: float = 1.0) -> list[SequenceRecord]:
    """Completions of at most TOKENS tokens."""
    sampling = SamplingSpec(max_completion_tokens=TOKENS, temperature=temperature)
    return maker.answer(jobs, sampling=sampling, source="student", seed=(seed,))


def scored(teacher: Respondent, sequences: Sequence[tuple[list[int], list[int]]]) -> list[TrainingItem]:
    """With the teacher's top 10."""
    return ours.items(sequences, ours.score(teacher.engine, sequences, mass=0.9999))


def evaluate(task: Task, model: PreTrainedModel) -> Quality:
    """The three numbers."""
    torch.set_num_threads(1)  # this small, the fastest
    maker = respondent(model.eval())
    kl = {}
    for name, data in task.fixed.items():
        total, count = maker.engine.divergence(data)
        kl[name] = total / count
    grades = [record.grade or 0.0 for record in answers(maker, task.test, seed=0, temperature=0.0)]
    return Quality(kl["teacher"], kl["student"], sum(grades) / len(grades), len(grades))


def run_ours(
    task: Task, sequences: int, *, batch_size: int, learning_rate: float, epochs: int
) -> tuple[float, Quality]:  # fmt: skip
    """Roll out on as many prompts as the sequences go through `epochs` times, score, train."""
    student = copy.deepcopy(task.start)
    count = min(len(task.prompts), sequences // epochs)
    training = TrainingSpec(batch_size=batch_size, steps=sequences // batch_size, learning_rate=learning_rate)
    torch.set_num_threads(2)

    def work() -> None:
        maker = respondent(student)
        prompts = task.prompts[:count]
        made = ours.generate(maker.engine, prompts, tokens=TOKENS, stop=maker.stop, seed=task.seed)
        pairs = [(prompt, item.completion_ids) for prompt, item in zip(prompts, made, strict=True)]
        data = scored(task.teacher, pairs)
        generator = torch.Generator().manual_seed(task.seed)
        order = [
            index
            for _ in range(-(-sequences // count))
            for index in torch.randperm(count, generator=generator).tolist()
        ]
        ours.training_loop(student, data, order=order[:sequences], training=training, micro_batch_size=64, loss=KD)(
            lambda: None
        )

    spent = measure.seconds(work)
    return spent, evaluate(task, student)


def run_trl(
    task: Task, sequences: int, *, batch_size: int, learning_rate: float, beta: float, threads: int
) -> tuple[float, Quality]:
    """On-policy with the teacher alive, cosine as ours."""
    student = copy.deepcopy(task.start)
    teacher = copy.deepcopy(task.teacher_model)
    torch.set_num_threads(threads)
    loop = peers.distillation(
        student, teacher, task.prompts, batch_size=batch_size, steps=sequences // batch_size, tokens=TOKENS,
        learning_rate=learning_rate, beta=beta, schedule="cosine", shuffle=True, seed=task.seed,
    )  # fmt: skip
    spent = measure.seconds(lambda: loop(lambda: None))
    return spent, evaluate(task, student)


if __name__ == "__main__":
    main()
