"""What an exported file costs to run, in the field's terms: every figure defined once. numpy only.

One generation answers one prompt of P given token ids with N tokens, greedily, at batch size 1, without stop ids. A
round is one process that opened the file and generated several times; a figure of a round is the median over these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np


@dataclass(frozen=True)
class Generation:
    """One timed answer. The host's time is the wall clock's, the library's is a part of it."""

    prefill_s: float
    """From the call to the first token."""
    decode_s: tuple[float, ...]
    """The N - 1 gaps between tokens."""
    library_prefill_s: float
    """Of `prefill_s`, within the library that computes: llama.cpp, onnxruntime."""
    library_decode_s: float
    """Of the gaps together, likewise."""


@dataclass(frozen=True)
class Round:
    """What one process measured of one file."""

    load_s: float
    """Opening the file, until the library can compute; imports and hashes not counted."""
    peak_rss_bytes: int
    """Of the whole process: interpreter, library, weights, cache."""
    start_rss_bytes: int
    """Of the process before the file was opened: interpreter and numpy."""
    energy_j: float | None
    """Of all generations together, idle not subtracted; None where no counter can be read."""
    generations: tuple[Generation, ...]


@dataclass(frozen=True)
class Figure:
    """One number a round, and what they say together."""

    rounds: tuple[float, ...]

    @property
    def value(self) -> float:
        """Median over the rounds."""
        return median(self.rounds)

    @property
    def low(self) -> float:
        """The least of the rounds."""
        return min(self.rounds)

    @property
    def high(self) -> float:
        """The greatest of the rounds."""
        return max(self.rounds)

    @property
    def confidence(self) -> float:
        """Chance that [low, high] holds the median that endless rounds would have: 1 - 2^(1 - n).

        It fails only if all n independent rounds fall on one side. Not so where a slow drift ties rounds together.

        Source: the sign test's interval; David & Nagaraja 2003, Order Statistics, section 7.1.
        """
        return 1 - 2.0 ** (1 - len(self.rounds))

    def over(self, other: Figure) -> Figure:
        """This by the other, round by round, so that what slowed both down cancels.

        Raises: ValueError, if the two are not of the same number of rounds.
        """
        return Figure(tuple(own / theirs for own, theirs in zip(self.rounds, other.rounds, strict=True)))


@dataclass(frozen=True)
class Percentiles:
    """Of all gaps between tokens, in seconds."""

    p50: float
    p90: float
    p99: float


def ttft_s(one: Generation) -> float:
    """Time to first token. The prompt's ids are given: no tokenization, chat template, queue or network.

    Not vLLM's TTFT (`benchmarks/serve.py`), which is a client's and has all four.
    """
    return one.prefill_s


def e2e_s(one: Generation) -> float:
    """End to end: the call to the last token."""
    return one.prefill_s + sum(one.decode_s)


def tpot_s(one: Generation) -> float:
    """Time per output token without the first: (E2E - TTFT) / (N - 1).

    Raises: ZeroDivisionError, for a single token.
    Source: vLLM's `benchmarks/serve.py`, "TPOT (excl. 1st token)".
    """
    return sum(one.decode_s) / len(one.decode_s)


def prefill_tok_per_s(one: Generation, *, prompt_tokens: int) -> float:
    """llama-bench's `pp`: prompt tokens by the library's seconds for them, no tokenization, no sampling."""
    return prompt_tokens / one.library_prefill_s


def decode_tok_per_s(one: Generation) -> float:
    """llama-bench's `tg`: single-token steps by the library's seconds for them, no sampling.

    Not at llama-bench's default depth of 0 but after the prompt: its `tg` with `-d P`; N - 1 steps, not N.
    """
    return len(one.decode_s) / one.library_decode_s


def host_share(one: Generation) -> float:
    """Share of E2E outside the library: masks, cache write-back, choosing the token, Python. 0 to 1."""
    return 1 - (one.library_prefill_s + one.library_decode_s) / e2e_s(one)


def per_round(rounds: Sequence[Round], of: Callable[[Generation], float]) -> Figure:
    """The median over each round's generations."""
    return Figure(tuple(median(of(one) for one in each.generations) for each in rounds))


def inter_token_s(rounds: Sequence[Round]) -> Percentiles:
    """ITL: percentiles over all gaps of all generations of all rounds, by linear interpolation.

    Source: vLLM's `benchmarks/serve.py`, ITL, which pools all gaps as well.
    """
    gaps = np.array([gap for each in rounds for one in each.generations for gap in one.decode_s])
    p50, p90, p99 = (float(value) for value in np.percentile(gaps, [50, 90, 99]))
    return Percentiles(p50=p50, p90=p90, p99=p99)


def energy_j_per_token(rounds: Sequence[Round]) -> Figure | None:
    """Joules by completion tokens, the prompts' reading included; None where a round has none."""
    found = []
    for each in rounds:
        if each.energy_j is None:
            return None
        found.append(each.energy_j / sum(1 + len(one.decode_s) for one in each.generations))
    return Figure(tuple(found))


def mean_depth(*, prompt_tokens: int, completion_tokens: int) -> float:
    """Tokens that a decode step attends to, its own included, in the mean over the N - 1 steps.

    Step i sees P + i of them, and the mean of 1 to N - 1 is N / 2: P + N / 2.
    """
    return prompt_tokens + completion_tokens / 2


def bandwidth_share(
    tpot: Figure, *, weight_bytes: float, kv_bytes_per_token: float, kv_tokens: float, bandwidth_bytes_per_s: float
) -> Figure:
    """How near decoding is to the memory's limit, (weights + KV bytes) / bandwidth / TPOT; 1 is the limit.

    A step cannot do without every weight once, and the keys and values of `kv_tokens` (see `mean_depth`). Above 1
    where the weights stay in a processor cache, which is faster than the memory.

    Source: Pope et al. 2022, arXiv 2211.05102, section 2: at batch size 1 decoding is bound by loading the weights.
    """
    limit_s = (weight_bytes + kv_bytes_per_token * kv_tokens) / bandwidth_bytes_per_s
    return Figure(tuple(limit_s / seconds for seconds in tpot.rounds))
