"""Which of a teacher's several completions of a prompt becomes its label. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from eyas.curriculum import Key, majority
from eyas.records import SequenceRecord


@dataclass(frozen=True)
class Synthesis:
    """What `synthesise` decided: at most one sequence per prompt and mode."""

    kept: tuple[int, ...]
    """Indices of the chosen sequences, ascending."""
    verified: int
    """Of these, how many their grader called correct."""
    agreed: int
    """How many rest on agreement alone, where a prompt has nothing to grade by."""
    dropped: Counter[str]
    """Reason -> prompts (in a mode) left without a label."""
    agreements: tuple[float, ...]
    """Share of the samples with the majority's answer, for every prompt that has no grade."""


def synthesise(sequences: Sequence[SequenceRecord], *, min_agreement: float) -> Synthesis:
    """The shortest correct completion of each prompt and mode; without a grade, the shortest of the majority.

    The majority answer needs more votes than any other and at least `min_agreement` of all samples; cut completions
    and those without an answer are samples that voted for none. Cut completions are never chosen. Ties in length go
    to the lower sample number. Not a filter on style: a short completion may be a terse one.

    Source: shortest correct response, openPangu Embedded (arXiv 2505.22375); majority answer, self-consistency
    (arXiv 2203.11171).
    """
    groups: dict[Key, list[int]] = defaultdict(list)
    for index, sequence in enumerate(sequences):
        groups[sequence.example_id, sequence.mode].append(index)
    kept: list[int] = []
    verified = agreed = 0
    dropped: Counter[str] = Counter()
    agreements: list[float] = []
    for group in groups.values():
        whole = [index for index in group if sequences[index].finish_reason == "stop"]
        if any(sequences[index].grade is not None for index in group):
            right = [index for index in whole if (sequences[index].grade or 0.0) >= 1.0]
            verified += bool(right)
            reason = "no_correct_completion"
        else:
            right, share = _majority(sequences, whole, of=len(group))
            agreements.append(share)
            right = right if share >= min_agreement else []
            agreed += bool(right)
            reason = "no_agreement"
        if right:
            kept.append(min(right, key=lambda i: (len(sequences[i].completion_ids), sequences[i].sample)))
        else:
            dropped[reason] += 1
    return Synthesis(tuple(sorted(kept)), verified, agreed, dropped, tuple(agreements))


def _majority(sequences: Sequence[SequenceRecord], whole: Sequence[int], *, of: int) -> tuple[list[int], float]:
    """The completions with the most frequent answer, and their share of all `of` samples; none in a tie."""
    answer, count = majority(sequences[i].answer for i in whole)
    return [i for i in whole if answer is not None and sequences[i].answer == answer], count / of
