"""What a teacher says of completion tokens, from its logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from eyas.recipe import ScoreSpec
from eyas.records import seed_for
from eyas.sampling import uniform_streams
from eyas.storage.scores import TeacherScores
from eyas.targets import draw_targets


def target_uniforms(parts: Sequence[tuple[str, int]], *, seed: int, spec: ScoreSpec) -> Tensor:
    """[N, samples] for (token hash, tokens) one after another, each from its own stream; [N, 0] where none is drawn."""
    if spec.target == "top_k":
        return torch.empty(sum(length for _, length in parts), 0)
    streams = [uniform_streams([seed_for(seed, key)], length * spec.samples) for key, length in parts]
    return torch.cat(streams, dim=-1).view(-1, spec.samples)


def described(logits_NV: Tensor, labels_N: Tensor, uniforms_NS: Tensor, *, spec: ScoreSpec) -> tuple[Tensor, ...]:
    """(ids, log-probs, tail, the labels' log-probs), or (ids, draws, the labels' log-probs) of a sampled target.

    Overwrites the logits, so that a vocabulary is gone through three times and never copied. The tail is summed over
    the rest itself: 1 minus the entries would round it away.
    """
    if spec.temperature != 1:
        logits_NV.div_(spec.temperature)
    values_NK, ids_NK = logits_NV.topk(min(spec.top_k, logits_NV.shape[-1]), dim=-1)
    own_N = logits_NV.gather(-1, labels_N[:, None]).squeeze(-1)
    largest_N1 = values_NK[:, :1]
    weights_NV = logits_NV.sub_(largest_N1).exp_()
    if spec.target == "random_sampling":
        total_N = weights_NV.sum(dim=-1)
        drawn = draw_targets(weights_NV, uniforms_NS.to(logits_NV.device))
        return *drawn, own_N - largest_N1.squeeze(-1) - total_N.log()
    entries_NK = values_NK - largest_N1
    rest_N = weights_NV.scatter_(-1, ids_NK, 0.0).sum(dim=-1)
    log_total_N = (rest_N + entries_NK.exp().sum(dim=-1)).log()
    own_N = own_N - largest_N1.squeeze(-1) - log_total_N
    return ids_NK, entries_NK - log_total_N[:, None], rest_N.log() - log_total_N, own_N


def teacher_scores(key: str, columns: Sequence[NDArray[Any]], *, spec: ScoreSpec) -> TeacherScores:
    """One sequence's scores from its rows of what `described` returned."""
    if spec.target == "random_sampling":
        ids_TS, draws_TS, own_T = columns
        return TeacherScores.from_draws(key, ids_TS, draws_TS, own_T)
    ids_TK, logprobs_TK, tail_T, own_T = columns
    return TeacherScores.from_top_k(key, ids_TK, logprobs_TK, tail_T, own_T, mass=spec.mass)
