"""Scoring: 8 rollouts of 128 tokens on each prompt of 128, ours against a plain batched prefill with full logits.

    python benchmarks/scoring.py [--short]

SmolLM2-135M's shape, CPU float32, top 10. The plain way is the model's own forward over the batch of 8, log-softmax
over all positions and the vocabulary, the completion's slice and its top-k. The full form adds the plain way at its
best, which keeps the logits of completions alone (`logits_to_keep`).
"""

from __future__ import annotations

import measure
import ours
import shapes
import torch
from transformers import PreTrainedModel

SAMPLES, PROMPT, TOKENS, TOP_K = 8, 128, 128, 10


def main() -> None:
    """One row a way of doing it plainly."""
    options = measure.options(__doc__).parse_args()
    measure.prepare()
    report = measure.Report("scoring", short=options.short)
    prompts, rounds = (2, 3) if options.short else (4, 5)
    model = shapes.smollm2_shaped(30)
    sequences = [
        (shapes.random_ids(PROMPT, seed=number), shapes.random_ids(TOKENS, seed=1000 + SAMPLES * number + sample))
        for number in range(prompts)
        for sample in range(SAMPLES)
    ]
    scorer = ours.engine(model, scoring=SAMPLES)
    for kept in (False,) if options.short else (False, True):
        own_s, peer_s = measure.alternate(
            lambda: ours.score(scorer, sequences, top_k=TOP_K),
            lambda kept=kept: plain(model, sequences, kept=kept),
            rounds=rounds,
            warmup=True,
        )
        report.note(**{f"{kept} own_s": own_s, f"{kept} peer_s": peer_s})
        count = len(sequences) * TOKENS
        report.add(
            measure.Row(
                what="scoring",
                peer="plain prefill, logits of completions alone" if kept else "plain prefill, full logits",
                ours=f"{count * rounds / sum(own_s):.0f} tok/s",
                theirs=f"{count * rounds / sum(peer_s):.0f} tok/s",
                ratios=measure.ratios(own_s, peer_s),
                target=None if kept else 2.0,
                note=f"{prompts} prompts x {SAMPLES} rollouts of {TOKENS} completion tokens",
            )
        )
    report.finish()


def plain(model: PreTrainedModel, sequences: list[tuple[list[int], list[int]]], *, kept: bool) -> None:
    """Batches of 8 through the model's own forward."""
    with torch.inference_mode():
        for start in range(0, len(sequences), SAMPLES):
            batch = torch.tensor([prompt + completion for prompt, completion in sequences[start : start + SAMPLES]])
            logits_BTV = model(batch, use_cache=False, logits_to_keep=TOKENS + 1 if kept else 0).logits
            logprobs_BTV = torch.log_softmax(logits_BTV, dim=-1)[:, -TOKENS - 1 : -1]
            logprobs_BTV.topk(TOP_K, dim=-1)
            logprobs_BTV.gather(-1, batch[:, -TOKENS:, None])


if __name__ == "__main__":
    main()
