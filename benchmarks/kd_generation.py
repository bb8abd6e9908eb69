"""The distillation step with each side's own generation: TRL generates and asks its teacher in every step, we generate
and score once and train on it for three epochs.

    python benchmarks/kd_generation.py [--short]

8 prompts of GSM8K's lengths x 128 tokens a step, student in SmolLM2-135M's shape (random weights, which never stop),
teacher twice as deep, CPU float32. Our price of a step: the step on stored scores, and a third of what rolling out and
scoring its sequences costs, measured on a larger set of prompts, as a recipe does it.
"""

from __future__ import annotations

from collections.abc import Callable

import measure
import ours
import peers
import shapes

from eyas.recipe import LossSpec, TrainingSpec

EPOCHS = 3
SIZE, TOKENS = 8, 128


def main() -> None:
    """Three loops in turn: our training, our rollouts and scoring, TRL's on-policy step."""
    options = measure.options(__doc__).parse_args()
    measure.prepare()
    report = measure.Report("kd_generation", short=options.short)
    layers, count, rounds = (15, 24, 2) if options.short else (30, 64, 5)
    prompts = [prompt for prompt, _ in shapes.random_sequences([(p, 1) for p, _ in shapes.gsm8k_lengths(count)])]
    student, peer_student = shapes.smollm2_shaped(layers), shapes.smollm2_shaped(layers)
    teacher = shapes.smollm2_shaped(2 * layers, seed=1)
    maker, scorer = ours.engine(student, generation=count), ours.engine(teacher, scoring=SIZE)
    parts: dict[str, list[float]] = {"rollout_s": [], "scoring_s": []}
    first = [(prompt, shapes.random_ids(TOKENS, seed=number)) for number, prompt in enumerate(prompts[:SIZE])]

    def rollouts(turn: Callable[[], None]) -> None:
        turn()
        for number in range(rounds):
            made: list[tuple[list[int], list[int]]] = []
            parts["rollout_s"].append(
                measure.seconds(
                    lambda seed=number, made=made: made.extend(
                        zip(
                            prompts,
                            [item.completion_ids for item in ours.generate(maker, prompts, tokens=TOKENS, seed=seed)],
                            strict=True,
                        )
                    )
                )
            )
            parts["scoring_s"].append(measure.seconds(lambda made=made: ours.score(scorer, made)))
            turn()

    loops = (
        ours.training_loop(
            shapes.smollm2_shaped(layers), ours.items(first, ours.score(scorer, first)), loss=LossSpec(),
            micro_batch_size=SIZE, training=TrainingSpec(batch_size=SIZE, steps=rounds + 2),
        ),
        rollouts,
        peers.distillation(
            peer_student, teacher, prompts, batch_size=SIZE, steps=rounds + 2, tokens=TOKENS
        ),
    )  # fmt: skip
    step_s, offline_s, peer_s = measure.Turns(*loops).run(rounds)
    report.note(step_s=step_s, offline_s=offline_s, peer_s=peer_s, prompts=count, **parts)
    own_s = [step + offline * SIZE / count / EPOCHS for step, offline in zip(step_s, offline_s, strict=True)]
    middle = sorted(own_s)[len(own_s) // 2], sorted(peer_s)[len(peer_s) // 2]
    report.add(
        measure.Row(
            what="KD step with generation",
            peer="TRL DistillationTrainer, on-policy",
            ours=f"{middle[0]:.1f} s a step",
            theirs=f"{middle[1]:.1f} s a step",
            ratios=measure.ratios(own_s, peer_s),
            target=3.0,
            note=f"{SIZE} x {TOKENS} tokens, {EPOCHS} epochs a rollout set, {layers}/{2 * layers} layers",
        )
    )
    report.finish()


if __name__ == "__main__":
    main()
