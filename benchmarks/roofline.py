"""Distance from the machine's limit: the time of the model's matrix products alone, over the time that we take.

    python benchmarks/roofline.py [--short]

SmolLM2-135M's shape, CPU float32. Each product of a decoder layer and of the head is timed by itself in the shape that
the work gives it, and again in the shapes of its two gradients for training; the best of its runs counts. Their sum is
what the step would take if nothing else cost anything: no attention, norms, softmax, sampling, loss, optimiser, Python.
Attention's own products are left out: at these lengths they are under 3 % of the FLOPs.
"""

from __future__ import annotations

import measure
import ours
import shapes
import torch

from eyas.recipe import LossSpec, TrainingSpec

LAYERS = 30
HIDDEN, KEYS, INNER, VOCABULARY = 576, 192, 1536, 49152
LAYER = ((HIDDEN, HIDDEN, 2), (HIDDEN, KEYS, 2), (HIDDEN, INNER, 2), (INNER, HIDDEN, 1))
"""(inputs, outputs, how many) of a decoder layer's products."""
PROMPT, TOKENS, START = 128, 128, 32
"""Tokens of a scored or trained sequence, and of a rollout's prompt."""


def main() -> None:
    """Training, scoring, rollouts."""
    options = measure.options(__doc__).parse_args()
    measure.prepare()
    report = measure.Report("roofline", short=options.short)
    size, rounds, prompts, made = (4, 2, 64, 16) if options.short else (8, 4, 64, 128)
    sequences = shapes.random_sequences([(PROMPT, TOKENS)] * size)
    model = shapes.smollm2_shaped(LAYERS)
    scorer, maker = ours.engine(model, scoring=size), ours.engine(model, generation=prompts)
    scores = ours.score(scorer, sequences)
    all_tokens, completion_tokens = size * (PROMPT + TOKENS), size * TOKENS

    (scored_s,) = measure.alternate(lambda: ours.score(scorer, sequences), rounds=rounds)
    add(
        report, "scoring", all_tokens, scored_s, forward_s(all_tokens, completion_tokens), all_tokens, completion_tokens
    )

    starts = [shapes.random_ids(START, seed=number) for number in range(prompts)]
    (rolled_s,) = measure.alternate(
        lambda: ours.generate(maker, starts, tokens=made), rounds=max(1, rounds // 2), warmup=False
    )
    prefill_s, step_s = forward_s(prompts * START, prompts), forward_s(prompts, prompts)
    tokens = prompts * (START + made - 1)
    add(report, "rollouts", prompts * made, rolled_s, prefill_s + (made - 1) * step_s, tokens, prompts * made)

    loop = ours.training_loop(
        model, ours.items(sequences, scores), loss=LossSpec(), micro_batch_size=size,
        training=TrainingSpec(batch_size=size, steps=rounds + 2),
    )  # fmt: skip
    (trained_s,) = measure.Turns(loop).run(rounds)
    ideal_s = forward_s(all_tokens, completion_tokens) + backward_s(all_tokens, completion_tokens)
    add(report, "KD training", all_tokens, trained_s, ideal_s, 3 * all_tokens, 3 * completion_tokens)
    report.finish()


def add(
    report: measure.Report, what: str, counted: int, own_s: list[float], ideal_s: float, body: int, head: int
) -> None:
    """One row; `body` and `head` are the tokens that pass the layers and the head, gradients included."""
    flop = 2.0 * (LAYERS * sum(i * o * count for i, o, count in LAYER) * body + HIDDEN * VOCABULARY * head)
    best_s = min(own_s)
    report.add(
        measure.Row(
            what=f"share of the limit: {what}",
            peer="its matrix products alone",
            ours=f"{counted / best_s:.0f} tok/s, {flop / best_s / 1e9:.0f} GFLOP/s",
            theirs=f"{counted / ideal_s:.0f} tok/s, {flop / ideal_s / 1e9:.0f} GFLOP/s",
            ratios=tuple(ideal_s / value for value in own_s),
        )
    )


def forward_s(body: int, head: int) -> float:
    """Seconds of the forward products of `body` tokens through the layers and `head` through the head."""
    layer_s = sum(count * product_s(body, inputs, outputs) for inputs, outputs, count in LAYER)
    return LAYERS * layer_s + product_s(head, HIDDEN, VOCABULARY)


def backward_s(body: int, head: int) -> float:
    """Seconds of the products that give the gradients of inputs and of weights."""
    layer_s = sum(
        count * (product_s(body, outputs, inputs) + product_s(outputs, body, inputs))
        for inputs, outputs, count in LAYER
    )
    return LAYERS * layer_s + product_s(head, VOCABULARY, HIDDEN) + product_s(VOCABULARY, head, HIDDEN)


def product_s(rows: int, inner: int, columns: int) -> float:
    """Best seconds of [rows, inner] @ [inner, columns]."""
    left, right, out = torch.randn(rows, inner), torch.randn(columns, inner).T, torch.empty(rows, columns)
    runs = max(3, min(50, int(2e10 / (2.0 * rows * inner * columns))))
    return min(measure.seconds(lambda: torch.mm(left, right, out=out)) for _ in range(runs))


if __name__ == "__main__":
    main()
