"""Rollouts: 64 prompts x 128 sampled tokens of SmolLM2-135M, ours against `generate` of transformers, same batch.

    python benchmarks/rollouts.py [--short]

CPU float32, temperature 1, GSM8K's prompt lengths. Nothing stops early, so both sides make the same number of tokens;
the full form adds a run in which SmolLM2's own stop tokens end completions, per token made, and `generate` with its
static cache. Short: one round.
"""

from __future__ import annotations

from typing import Any

import measure
import ours
import shapes
import torch
from transformers import GenerationConfig, PreTrainedModel

from eyas.storage.smollm2 import load_smollm2

COUNT, TOKENS = 64, 128
NEVER = 49151
"""The vocabulary's last id, a rare token: taken as the stop id, it ends next to nothing."""
PAD = 2


def main() -> None:
    """Rows against the dynamic cache, and in the full form against the static one and with stops."""
    options = measure.options(__doc__).parse_args()
    measure.prepare()
    report = measure.Report("rollouts", short=options.short)
    model = load_smollm2()[0].eval()
    rounds = 1 if options.short else 3
    prompts = [prompt for prompt, _ in shapes.random_sequences([(p, 1) for p, _ in shapes.gsm8k_lengths(COUNT)])]
    compare(report, model, prompts, rounds=rounds, stop=NEVER, cache=None, target=2.0)
    if not options.short:
        compare(report, model, prompts, rounds=rounds, stop=NEVER, cache="static", target=2.0)
        compare(report, model, prompts, rounds=rounds, stop=PAD, cache=None, target=None)
    report.finish()


def compare(
    report: measure.Report, model: PreTrainedModel, prompts: list[list[int]], *, rounds: int, stop: int,
    cache: str | None, target: float | None,
) -> None:  # fmt: skip
    """One row, in seconds per token made."""
    maker = ours.engine(model, generation=COUNT)
    made: dict[str, list[int]] = {"ours": [], "peer": []}

    def own() -> None:
        found = ours.generate(maker, prompts, tokens=TOKENS, stop=(stop,), seed=len(made["ours"]))
        made["ours"].append(sum(len(item.completion_ids) for item in found))

    def peer() -> None:
        made["peer"].append(generate(model, prompts, tokens=TOKENS, stop=stop, cache=cache))

    generate(model, prompts[:4], tokens=4, stop=stop, cache=cache)
    ours.generate(maker, prompts[:4], tokens=4, stop=(stop,))
    own_s, peer_s = measure.alternate(own, peer, rounds=rounds, warmup=False)
    report.note(**{f"{cache} {stop} own_s": own_s, f"{cache} {stop} peer_s": peer_s, f"{cache} {stop} tokens": made})
    spent = [
        [taken / count for taken, count in zip(side_s, made[side], strict=True)]
        for side, side_s in (("ours", own_s), ("peer", peer_s))
    ]
    report.add(
        measure.Row(
            what="rollouts",
            peer=f"transformers generate, {cache or 'dynamic'} cache",
            ours=f"{sum(made['ours']) / sum(own_s):.0f} tok/s",
            theirs=f"{sum(made['peer']) / sum(peer_s):.0f} tok/s",
            ratios=measure.ratios(*spent),
            target=target,
            note=f"{COUNT} prompts x {TOKENS} tokens" + ("" if stop == NEVER else ", stopping at EOS"),
        )
    )


def generate(model: PreTrainedModel, prompts: list[list[int]], *, tokens: int, stop: int, cache: str | None) -> int:
    """Tokens made, up to and with the first stop of each row."""
    width = max(map(len, prompts))
    ids_BT = torch.tensor([[PAD] * (width - len(prompt)) + prompt for prompt in prompts])
    mask_BT = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    settings: dict[str, Any] = {} if cache is None else {"cache_implementation": cache, "disable_compile": True}
    config = GenerationConfig(
        max_new_tokens=tokens, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, pad_token_id=PAD,
        eos_token_id=stop, **settings,
    )  # fmt: skip
    with torch.inference_mode():
        all_BT: Any = model.generate(input_ids=ids_BT, attention_mask=mask_BT, generation_config=config)
    stopped_BT = (all_BT[:, ids_BT.shape[1] :] == stop).cumsum(dim=-1)
    return int((stopped_BT == 0).sum() + (stopped_BT[:, -1] > 0).sum())


if __name__ == "__main__":
    main()
