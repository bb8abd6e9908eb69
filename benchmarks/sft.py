"""SFT tokens per second on GSM8K's lengths, ours packed against TRL's SFTTrainer at its best CPU setting.

    python benchmarks/sft.py [--short]

SmolLM2-135M's shape, CPU float32, loss on completions, the same sequences in every step. The full form tries TRL's
settings (padded, bucketed by length, padding-free, packed, smaller micro-batches) and ours (packed, padded, smaller
micro-batches) for two steps each, then measures the best of both in turn; the short form takes what that found.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import measure
import ours
import peers
import shapes

from eyas.recipe import TrainingSpec

ROW = 512
"""Tokens of a row that TRL packs."""
SWEPT = 8
"""Sequences a step while settings are tried."""
PEER_SETTINGS: dict[str, dict[str, Any]] = {
    "padded": {},
    "padded, accumulation 4": {"accumulation": 4},
    "1 sequence a pass": {"accumulation": 8},
    "bucketed by length, accumulation 4": {"accumulation": 4, "bucketed": True},
    "padding-free": {"padding_free": True, "max_length": None},
    "packed": {"packing": True},
    "packed, 1 row a pass": {"packing": True, "accumulation": 0},
}
OUR_SETTINGS: dict[str, tuple[bool, int]] = {
    "packed, 2 a pass": (True, 2),
    "packed, 4 a pass": (True, 4),
    "packed, 16 a pass": (True, 16),
    "padded, 4 a pass": (False, 4),
}
BEST_PEER, BEST_OURS = "packed, 1 row a pass", "packed, 4 a pass"
"""What the full form found on 2 CPU cores."""

Loop = Callable[[Callable[[], None]], Any]


def main() -> None:
    """Find the best settings, then compare them."""
    options = measure.options(__doc__).parse_args()
    measure.prepare()
    report = measure.Report("sft", short=options.short)
    size, rounds = (8, 2) if options.short else (16, 6)
    best_peer, best_ours = BEST_PEER, BEST_OURS
    if not options.short:
        best_peer = fastest(report, {name: peer_loop(name, SWEPT, steps=4) for name in PEER_SETTINGS}, SWEPT)
        best_ours = fastest(report, {name: our_loop(name, SWEPT, steps=4) for name in OUR_SETTINGS}, SWEPT)
    steps = rounds + 2
    own_s, peer_s = measure.Turns(our_loop(best_ours, size, steps), peer_loop(best_peer, size, steps)).run(rounds)
    report.note(own_s=own_s, peer_s=peer_s)
    tokens = rounds * step_tokens(size)
    report.add(
        measure.Row(
            what="SFT",
            peer=f"TRL SFTTrainer, {best_peer}",
            ours=f"{tokens / sum(own_s):.0f} tok/s, {best_ours}",
            theirs=f"{tokens / sum(peer_s):.0f} tok/s",
            ratios=measure.ratios(own_s, peer_s),
            target=1.0,
            note=f"{size} sequences a step; aim 1.3",
        )
    )
    report.finish()


def step_tokens(size: int) -> int:
    """Tokens of a step, padding excluded: every step has the same sequences."""
    return sum(prompt + answer for prompt, answer in shapes.gsm8k_lengths(size))


def our_loop(name: str, size: int, steps: int) -> Loop:
    """Ours with a setting of OUR_SETTINGS."""
    packing, micro_batch_size = OUR_SETTINGS[name]
    training = TrainingSpec(batch_size=size, steps=steps, packing=packing)
    data = ours.items(shapes.random_sequences(shapes.gsm8k_lengths(size)))
    return lambda turn: ours.training_loop(
        shapes.smollm2_shaped(30), data, training=training, micro_batch_size=micro_batch_size
    )(turn)


def peer_loop(name: str, size: int, steps: int) -> Loop:
    """TRL's with a setting of PEER_SETTINGS; packed, the step has as many rows as hold the sequences."""
    settings = {"max_length": ROW} | PEER_SETTINGS[name]
    sequences = shapes.random_sequences(shapes.gsm8k_lengths(size))
    rows = peers.packed_rows(sequences, max_length=ROW) if settings.get("packing") else size
    if settings.get("accumulation") == 0:
        settings["accumulation"] = rows
    return lambda turn: peers.sft(shapes.smollm2_shaped(30), sequences, batch_size=rows, steps=steps, **settings)(turn)


def fastest(report: measure.Report, loops: dict[str, Loop], size: int) -> str:
    """Name of the loop with the shortest step of two."""
    found: dict[str, float] = {}
    for name, loop in loops.items():
        found[name] = min(measure.Turns(loop).run(2)[0])
        report.note(**{name: f"{step_tokens(size) / found[name]:.0f} tok/s"})
    return min(found, key=lambda name: found[name])


if __name__ == "__main__":
    main()
