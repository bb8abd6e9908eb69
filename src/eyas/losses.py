"""Distillation losses on sparse teacher targets, from hidden states, without ever holding [tokens, vocabulary] whole.

Suffixes: N completion tokens, K teacher entries per token, V vocabulary, D hidden.

A token's teacher entries are ids and log-probs, ragged in length: padding repeats the row's first id with
log-prob -inf, so that it neither adds mass nor hides another id.

Tails, the mass outside the entries (m = 1 - sum of p over them):
  bucket       one more outcome with the mass m on both sides (the "ghost token" of arXiv 2503.16870)
  renormalise  both sides divided by their captured mass; blind to student mass outside the entries
  drop         the plain sum over the entries; not a divergence, its optimum is over-confident (2503.16870, section 2)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from eyas.errors import ShapeError

Divergence = Literal["forward_kl", "reverse_kl", "jsd"]
Tail = Literal["bucket", "renormalise", "drop"]
Head = Callable[[Tensor], Tensor]

CHUNK_ELEMENTS = 2**24
"""Logits held at once (64 MiB in fp32); larger work is cut along N and recomputed in the backward pass."""
LOG_FLOOR = -69.0
"""log(1e-30): least log-mass of a tail bucket in a ratio, so that an exactly empty tail stays finite."""


@dataclass(frozen=True)
class LossSums:
    """Sums over completion tokens, in nats, float32; dividing by the global token count is the caller's."""

    total: Tensor
    """sum of w [(1-lambda) c CE + lambda D], c the token's ce mask."""
    cross_entropy: Tensor
    """Unweighted sum of CE, detached."""
    divergence: Tensor
    """Unweighted sum of D, detached; zero without teacher entries."""


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x <= 0, accurate near zero and far from it; -inf at 0 and above.

    Source: M. Mächler, "Accurately computing log(1 - exp(-|a|))", 2012.
    """
    x = x.clamp(max=0.0)
    safe = torch.where(x == 0, torch.full_like(x, -1.0), x)
    near = torch.log(-torch.expm1(safe.clamp(min=-0.6931471805599453)))
    far = torch.log1p(-torch.exp(safe.clamp(max=-0.6931471805599453)))
    value = torch.where(safe > -0.6931471805599453, near, far)
    return torch.where(x == 0, torch.full_like(x, -torch.inf), value)


def sparse_divergence(
    logits_NV: Tensor,
    teacher_ids_NK: Tensor,
    teacher_logprobs_NK: Tensor,
    *,
    divergence: Divergence,
    tail: Tail,
) -> Tensor:
    """Per-token divergence between the teacher's entries and the student's softmax, in nats, float [N].

    Equal to the full-vocabulary divergence when K = V. Teacher log-probs in float64 keep a tail that float32 would
    round away; the rest is computed in the logits' type. Teacher first: forward_kl is KL(teacher || student),
    reverse_kl is KL(student || teacher), jsd is the mean of both sides' KL to their mixture (beta = 0.5).

    Raises: ShapeError, if ids and log-probs differ in shape.
    Source: arXiv 2509.26497 and 2605.05940 (forward KL over top-k); 2503.16870 (tails); 2306.13649 (jsd).
    """
    if teacher_ids_NK.shape != teacher_logprobs_NK.shape or len(teacher_ids_NK) != len(logits_NV):
        raise ShapeError(
            f"teacher ids {tuple(teacher_ids_NK.shape)}, log-probs {tuple(teacher_logprobs_NK.shape)} and logits "
            f"{tuple(logits_NV.shape)} must share N, and the first two K."
        )
    normaliser_N1 = torch.logsumexp(logits_NV, dim=-1, keepdim=True)
    student_NK = logits_NV.gather(-1, teacher_ids_NK) - normaliser_N1
    teacher_NK = teacher_logprobs_NK.to(logits_NV.dtype)
    present_NK = torch.isfinite(teacher_NK)
    if tail == "renormalise":
        teacher_NK = teacher_NK - torch.logsumexp(teacher_NK, dim=-1, keepdim=True)
        hidden_NK = student_NK.masked_fill(~present_NK, -torch.inf)
        student_NK = student_NK - torch.logsumexp(hidden_NK, dim=-1, keepdim=True)
    if tail == "bucket":
        rest_NV = logits_NV.scatter(-1, teacher_ids_NK, -torch.inf)
        empty_N1 = torch.isinf(rest_NV).all(dim=-1, keepdim=True)
        rest_N1 = torch.logsumexp(rest_NV.masked_fill(empty_N1, 0.0), dim=-1, keepdim=True) - normaliser_N1
        student_tail_N1 = rest_N1.masked_fill(empty_N1, -torch.inf)
        teacher_mass_N1 = torch.logsumexp(teacher_logprobs_NK.double(), dim=-1, keepdim=True)
        teacher_tail_N1 = log1mexp(teacher_mass_N1).to(teacher_NK.dtype)
        student_NK = torch.cat([student_NK, student_tail_N1.clamp(min=LOG_FLOOR)], dim=-1)
        teacher_NK = torch.cat([teacher_NK, teacher_tail_N1.clamp(min=LOG_FLOOR)], dim=-1)
        present_NK = torch.cat([present_NK, ~(empty_N1 & torch.isinf(teacher_tail_N1))], dim=-1)
    teacher_NK = teacher_NK.masked_fill(~present_NK, 0.0)
    student_NK = student_NK.masked_fill(~present_NK, 0.0)
    terms_NK = _terms(teacher_NK, student_NK, divergence)
    return terms_NK.masked_fill(~present_NK, 0.0).sum(dim=-1)


def _terms(teacher_NK: Tensor, student_NK: Tensor, divergence: Divergence) -> Tensor:
    if divergence == "forward_kl":
        return teacher_NK.exp() * (teacher_NK - student_NK)
    if divergence == "reverse_kl":
        return student_NK.exp() * (student_NK - teacher_NK)
    mixture_NK = torch.logaddexp(teacher_NK, student_NK) - 0.6931471805599453
    teacher_side = teacher_NK.exp() * (teacher_NK - mixture_NK)
    return 0.5 * (teacher_side + student_NK.exp() * (student_NK - mixture_NK))


def completion_loss(
    hidden_ND: Tensor,
    labels_N: Tensor,
    weights_N: Tensor,
    ce_mask_N: Tensor,
    teacher_ids_NK: Tensor | None,
    teacher_logprobs_NK: Tensor | None,
    *,
    head: Head,
    vocabulary: int,
    kd_weight: float,
    divergence: Divergence,
    tail: Tail,
) -> LossSums:
    """Loss of completion tokens from their hidden states; `head` maps [n, D] to logits [n, V].

    The head runs on chunks of at most CHUNK_ELEMENTS logits; with more than one chunk each is recomputed
    in the backward pass. Without teacher entries the loss is plain cross-entropy and `kd_weight` must be 0.

    Source: L = (1/N) sum w [(1-lambda) CE + lambda D], arXiv 2509.26497.
    """

    def chunk_sums(
        hidden: Tensor, labels: Tensor, weights: Tensor, ce_mask: Tensor, ids: Tensor | None, logprobs: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        logits = head(hidden).float() if hidden.dtype != torch.float64 else head(hidden)
        ce = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        if ids is None or logprobs is None:
            return (weights * ce_mask * ce).sum(), ce.detach().sum(), ce.new_zeros(())
        kd = sparse_divergence(logits, ids, logprobs, divergence=divergence, tail=tail)
        total = (weights * ((1 - kd_weight) * ce * ce_mask + kd_weight * kd)).sum()
        return total, ce.detach().sum(), kd.detach().sum()

    size = max(1, CHUNK_ELEMENTS // vocabulary)
    columns = (hidden_ND, labels_N, weights_N, ce_mask_N, teacher_ids_NK, teacher_logprobs_NK)
    if len(hidden_ND) <= size:
        return LossSums(*chunk_sums(*columns))
    sums = [hidden_ND.new_zeros(()).float() for _ in range(3)]
    for start in range(0, len(hidden_ND), size):
        piece = [None if column is None else column[start : start + size] for column in columns]
        made = checkpoint(chunk_sums, *piece, use_reentrant=False)
        sums = [before + now for before, now in zip(sums, made, strict=True)]
    return LossSums(*sums)
