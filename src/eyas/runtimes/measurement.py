"""What was measured of one exported file, and the figures that follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from eyas.latency import (
    Figure,
    Percentiles,
    Round,
    bandwidth_share,
    decode_tok_per_s,
    e2e_s,
    energy_j_per_token,
    host_share,
    inter_token_s,
    mean_depth,
    per_round,
    prefill_tok_per_s,
    tpot_s,
    ttft_s,
)
from eyas.runtimes.facts import FileFacts


@dataclass(frozen=True)
class Measurement:
    """One file at its best number of threads: the rounds as they were, and every figure from them."""

    file: FileFacts
    runtime: str
    version: str
    threads: int
    sweep_tpot_s: Mapping[int, float]
    """TPOT by number of threads, from one short process each; empty where the threads were given."""
    prompt_tokens: int
    completion_tokens: int
    context_length: int
    """Tokens that memory was reserved for."""
    warmup: int
    """Generations of each round before those that count."""
    repeats: int
    bandwidth_bytes_per_s: float
    """Of this machine, measured before the first round."""
    rounds: tuple[Round, ...]

    @property
    def ttft_s(self) -> Figure:
        """Time to first token."""
        return per_round(self.rounds, ttft_s)

    @property
    def tpot_s(self) -> Figure:
        """Time per output token after the first."""
        return per_round(self.rounds, tpot_s)

    @property
    def e2e_s(self) -> Figure:
        """From the call to the last token."""
        return per_round(self.rounds, e2e_s)

    @property
    def itl_s(self) -> Percentiles:
        """Gaps between tokens, of all rounds."""
        return inter_token_s(self.rounds)

    @property
    def prefill_tok_per_s(self) -> Figure:
        """`pp` of llama-bench."""
        return per_round(self.rounds, partial(prefill_tok_per_s, prompt_tokens=self.prompt_tokens))

    @property
    def decode_tok_per_s(self) -> Figure:
        """`tg` of llama-bench, after the prompt."""
        return per_round(self.rounds, decode_tok_per_s)

    @property
    def host_share(self) -> Figure:
        """Share of the time outside the library."""
        return per_round(self.rounds, host_share)

    @property
    def load_s(self) -> Figure:
        """Opening the file."""
        return Figure(tuple(each.load_s for each in self.rounds))

    @property
    def peak_rss_bytes(self) -> Figure:
        """Of the whole process."""
        return Figure(tuple(float(each.peak_rss_bytes) for each in self.rounds))

    @property
    def start_rss_bytes(self) -> Figure:
        """Of the process before it opened the file."""
        return Figure(tuple(float(each.start_rss_bytes) for each in self.rounds))

    @property
    def energy_j_per_token(self) -> Figure | None:
        """None: not measured."""
        return energy_j_per_token(self.rounds)

    @property
    def bandwidth_share(self) -> Figure:
        """Of the memory's limit, by what a step of this file cannot do without."""
        depth = mean_depth(prompt_tokens=self.prompt_tokens, completion_tokens=self.completion_tokens)
        return bandwidth_share(
            self.tpot_s,
            weight_bytes=self.file.read_bytes,
            kv_bytes_per_token=self.file.kv_bytes_per_token,
            kv_tokens=self.file.kv_slots or depth,
            bandwidth_bytes_per_s=self.bandwidth_bytes_per_s,
        )

    def as_dict(self) -> dict[str, Any]:
        """Settings, facts, every figure with value, low and high, and the rounds: JSON values."""
        figures = {name: getattr(self, name) for name in FIGURES}
        return (
            asdict(self)
            | {"file": asdict(self.file) | {"path": str(self.file.path)}}
            | {"sweep_tpot_s": {str(threads): tpot for threads, tpot in self.sweep_tpot_s.items()}}
            | {name: figure and summary(figure) for name, figure in figures.items()}
            | {"itl_s": asdict(self.itl_s), "rounds": [asdict(each) for each in self.rounds]}
        )


FIGURES = (
    "ttft_s", "tpot_s", "e2e_s", "prefill_tok_per_s", "decode_tok_per_s", "host_share", "load_s", "peak_rss_bytes",
    "start_rss_bytes", "energy_j_per_token", "bandwidth_share",
)  # fmt: skip
"""Properties of Measurement that are one number a round."""


def summary(figure: Figure) -> dict[str, float]:
    """Median, least and greatest of the rounds, for a JSON file."""
    return {"value": figure.value, "low": figure.low, "high": figure.high}
