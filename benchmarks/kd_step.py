"""The distillation step alone: the same completions on both sides, TRL with its live teacher, ours on stored scores.

    python benchmarks/kd_step.py [--short]

Student in SmolLM2-135M's shape, teacher twice as deep, CPU float32; GSM8K's lengths. A step is everything from one
optimiser update to the next: batch, forward, backward, clipping, AdamW. The second row adds what scoring once costs us,
spread over three epochs.
"""

from __future__ import annotations

import measure
import ours
import peers
import shapes

from eyas.recipe import LossSpec, TrainingSpec

EPOCHS = 3
TOKENS = 128
"""Longest completion."""
KD = LossSpec()


def main() -> None:
    """Both sides step by step in turn, then the scoring."""
    options = measure.options(__doc__).parse_args()
    measure.prepare()
    report = measure.Report("kd_step", short=options.short)
    size, rounds, layers = (4, 3, 30) if options.short else (8, 8, 30)
    for equal in (False,) if options.short else (False, True):
        compare(report, size=size, rounds=rounds, layers=layers, equal=equal)
    report.finish()


def compare(report: measure.Report, *, size: int, rounds: int, layers: int, equal: bool) -> None:
    """Two rows: the step, and the step with its share of the scoring."""
    lengths = [(90, TOKENS) if equal else (p, min(c, TOKENS)) for p, c in shapes.gsm8k_lengths(size * (rounds + 1))]
    sequences = shapes.random_sequences(lengths)
    teacher = shapes.smollm2_shaped(2 * layers, seed=1)
    scorer = ours.engine(teacher, scoring=8)
    scores = []
    scoring_s = measure.seconds(lambda: scores.extend(ours.score(scorer, sequences))) / (rounds + 1)
    loops = (
        ours.training_loop(
            shapes.smollm2_shaped(layers), ours.items(sequences, scores), loss=KD, micro_batch_size=size,
            training=TrainingSpec(batch_size=size, steps=rounds + 2),
        ),
        peers.distillation(
            shapes.smollm2_shaped(layers), teacher, [prompt for prompt, _ in sequences],
            completions=[completion for _, completion in sequences], batch_size=size, steps=rounds + 2, tokens=TOKENS,
        ),
    )  # fmt: skip
    own_s, peer_s = measure.Turns(*loops).run(rounds)
    steps = [sequences[size * step : size * (step + 1)] for step in range(1, rounds + 1)]
    tokens = [sum(len(prompt) + len(completion) for prompt, completion in step) for step in steps]
    kind = "equal lengths" if equal else "GSM8K lengths"
    note = f"{kind}, {size} sequences, {layers}/{2 * layers} layers"
    report.note(**{f"{kind} own_s": own_s, f"{kind} peer_s": peer_s, f"{kind} scoring_s": scoring_s})
    full_s = [value + scoring_s / EPOCHS for value in own_s]
    for what, spent, target in (
        ("KD step", own_s, 1.5), (f"KD step + scoring / {EPOCHS} epochs", full_s, None)
    ):  # fmt: skip
        report.add(
            measure.Row(
                what=what,
                peer="TRL DistillationTrainer",
                ours=f"{sum(tokens) / sum(spent):.0f} tok/s",
                theirs=f"{sum(tokens) / sum(peer_s):.0f} tok/s",
                ratios=measure.ratios(spent, peer_s),
                target=target,
                note=note,
            )
        )


if __name__ == "__main__":
    main()
