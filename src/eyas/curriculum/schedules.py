"""The order in which a curriculum gives sequences to the optimiser. Pure functions of difficulty and seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, islice, pairwise
from math import ceil, sqrt
from random import Random
from typing import Literal

from eyas.curriculum.difficulty import Key
from eyas.recipe import CurriculumSpec
from eyas.records import MODES, Mode, seed_for

UNKNOWN_EASE = 0.5
"""Ease of a sequence that has none, as of one that is passed half of the time."""


def competence(step: int, *, steps: float, initial: float) -> float:
    """Share of the easiest sequences that step `step` (from 0) draws from; 1 from step `steps` on.

    c(t) = min(1, sqrt(t (1 - c0^2) / T + c0^2)), with c0 = `initial` and T = `steps`.
    Source: Platanios et al. 2019, arXiv 1903.09848, equation 7 with p = 2 ("square root").
    """
    return min(1.0, sqrt(step * (1 - initial**2) / steps + initial**2))


def training_order(
    keys: Sequence[Key],
    *,
    spec: CurriculumSpec,
    ease: Mapping[Key, float],
    modes: Mapping[Mode, float] | None,
    seed: int,
    steps: int,
    batch_size: int,
) -> list[int]:
    """Indices of `keys` for `steps` times `batch_size` sequences, modes interleaved by their shares.

    Every mode runs through its own sequences in the order of `spec.order`; a mode with a small share starts its next
    epoch later. Larger `ease` is easier; sequences without one count as 0.5, ties are shuffled. Deterministic in
    `seed`.
    """
    by_mode: dict[Mode, list[int]] = defaultdict(list)
    for index, (_, mode) in enumerate(keys):
        by_mode[mode].append(index)
    wanted = {mode: float(len(indices)) for mode, indices in by_mode.items()} if modes is None else dict(modes)
    shares = {mode: wanted[mode] for mode in MODES if by_mode.get(mode) and wanted.get(mode, 0) > 0}
    slots = list(islice(_interleaved(shares), steps * batch_size))
    streams = {}
    for mode in shares:
        draws = [slots[start : start + batch_size].count(mode) for start in range(0, len(slots), batch_size)]
        eases = {index: ease.get(keys[index], UNKNOWN_EASE) for index in by_mode[mode]}
        streams[mode] = _stream(eases, spec=spec, seed=seed_for(seed, mode), draws=draws)
    return [next(streams[mode]) for mode in slots]


def _interleaved(shares: Mapping[Mode, float]) -> Iterator[Mode]:
    """Modes without end, every one as evenly as its share allows."""
    credit = dict.fromkeys(shares, 0.0)
    total = sum(shares.values())
    while shares:
        for mode, share in shares.items():
            credit[mode] += share / total
        mode = max(credit, key=lambda name: credit[name])
        credit[mode] -= 1.0
        yield mode


def _stream(eases: Mapping[int, float], *, spec: CurriculumSpec, seed: int, draws: Sequence[int]) -> Iterator[int]:
    """The indices of one mode, of which step t takes `draws[t]`."""
    if spec.order == "competence":
        return _paced(eases, spec=spec, seed=seed, draws=draws)
    if spec.order == "balanced":
        return _balanced(eases, bins=spec.bins, seed=seed)
    return _epochs(eases, order=spec.order, seed=seed)


def _epochs(
    eases: Mapping[int, float], *, order: Literal["shuffle", "easy_to_hard", "hard_to_easy"], seed: int
) -> Iterator[int]:
    """All indices again and again, each epoch with other ties."""
    for epoch in count():
        shuffled = list(eases)
        Random(seed_for(seed, epoch)).shuffle(shuffled)
        if order != "shuffle":
            sign = -1 if order == "easy_to_hard" else 1
            shuffled.sort(key=lambda index: sign * eases[index])
        yield from shuffled


def _easiest_first(eases: Mapping[int, float], *, seed: int) -> list[int]:
    return list(islice(_epochs(eases, order="easy_to_hard", seed=seed), len(eases)))


def _paced(eases: Mapping[int, float], *, spec: CurriculumSpec, seed: int, draws: Sequence[int]) -> Iterator[int]:
    """Each step's draws uniformly from the easiest share, none twice in a step unless the share is smaller."""
    ordered = _easiest_first(eases, seed=seed)
    random = Random(seed_for(seed, "competence"))
    for step, wanted in enumerate(draws):
        share = competence(step, steps=spec.pacing.until * len(draws), initial=spec.pacing.initial)
        eligible = max(1, ceil(share * len(ordered)))
        rounds, rest = divmod(wanted, eligible)
        yield from ordered[:eligible] * rounds
        yield from (ordered[rank] for rank in random.sample(range(eligible), rest))


def _balanced(eases: Mapping[int, float], *, bins: int, seed: int) -> Iterator[int]:
    """Taking turns between `bins` equally large groups from easy to hard, each run through in epochs of its own."""
    ordered = _easiest_first(eases, seed=seed)
    groups = min(bins, len(ordered))
    cuts = [group * len(ordered) // groups for group in range(groups + 1)]
    streams = [
        _epochs({index: eases[index] for index in ordered[start:end]}, order="shuffle", seed=seed_for(seed, start))
        for start, end in pairwise(cuts)
    ]
    for draw in count():
        yield next(streams[draw % groups])
