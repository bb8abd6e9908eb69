"""The losses once more, naively: all logits at once, plain probabilities, one token at a time, autograd for gradients.

Written from the papers' formulas, sharing no code with eyas.losses; run it in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from eyas.losses import Head, SparseTeacher
from eyas.recipe import LEGAL, LossSpec


def legal_losses(**fields: object) -> list[LossSpec]:
    """One loss for every legal objective, divergence and tail with top-k targets."""
    made = []
    for row in LEGAL:
        if row.target == "top_k" and row.divergence is None:
            made.append(LossSpec(objective=row.objective, **fields))
        elif row.target == "top_k":
            made += [
                LossSpec(objective=row.objective, divergence=row.divergence, tail=tail, **fields) for tail in row.tails
            ]
    return made


def name_of(loss: object) -> str:
    return f"{loss.objective_name}-{loss.tail}" if isinstance(loss, LossSpec) else str(loss)


@dataclass
class Case:
    """Random hidden states, head, labels and a teacher, float64."""

    hidden_ND: Tensor
    weight_VD: Tensor
    bias_V: Tensor
    labels_N: Tensor
    weights_N: Tensor
    ce_mask_N: Tensor
    teacher: SparseTeacher

    @property
    def columns(self) -> tuple[Tensor, Tensor, Tensor, Tensor, SparseTeacher]:
        return self.hidden_ND, self.labels_N, self.weights_N, self.ce_mask_N, self.teacher


def case(
    n: int = 7, v: int = 19, d: int = 5, k: int = 6, *, seed: int = 0, ragged: bool = True, plain: bool = False
) -> Case:
    """`plain`: weights and ce mask all one."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    full_NV = torch.log_softmax(2 * random(n, v), -1)
    logprobs_NK, ids_NK = full_NV.topk(k, -1)
    labels_N = torch.randint(v, (n,), generator=generator)
    labels_N[0] = ids_NK[0, 0]
    own_N = full_NV.gather(-1, labels_N[:, None]).squeeze(-1)
    if ragged:
        for row, kept in ((1, 1), (2, k // 2 + 1)):
            logprobs_NK[row, kept:] = -math.inf
            ids_NK[row, kept:] = ids_NK[row, 0]
    tail_N = torch.stack([1 - p[p > 0].sum() for p in logprobs_NK.exp()]).clamp(min=0).log()
    if k == v:
        tail_N = torch.full_like(tail_N, -math.inf)
    return Case(
        random(n, d).requires_grad_(),
        random(v, d).requires_grad_(),
        random(v).requires_grad_(),
        labels_N,
        torch.ones(n, dtype=torch.float64) if plain else random(n).abs(),
        torch.ones(n, dtype=torch.float64) if plain else (random(n) > 0).double(),
        SparseTeacher(ids_NK, logprobs_NK, tail_N, own_N),
    )


def dense_loss(made: Case, *, head: Head, loss: LossSpec, temperature: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """(total, CE, D) summed over tokens."""
    logits_NV = made.hidden_ND @ head.weight_VD.T
    if head.bias_V is not None:
        logits_NV = logits_NV + head.bias_V
    logits_NV = head.scale * logits_NV[:, : head.vocabulary]
    if head.soft_cap is not None:
        logits_NV = head.soft_cap * torch.tanh(logits_NV / head.soft_cap)
    total, ce_sum, kd_sum = (torch.zeros((), dtype=torch.float64) for _ in range(3))
    for n, logits_V in enumerate(logits_NV):
        label_logprob = logits_V.log_softmax(-1)[made.labels_N[n]]
        kd = _token(logits_V, label_logprob, made.teacher, n, loss=loss, temperature=temperature)
        weighted = (1 - loss.kd_weight) * made.ce_mask_N[n] * -label_logprob + loss.kd_weight * kd
        total = total + made.weights_N[n] * weighted
        ce_sum, kd_sum = ce_sum - label_logprob, kd_sum + kd
    return total, ce_sum, kd_sum


def _token(
    logits_V: Tensor, label_logprob: Tensor, teacher: SparseTeacher, n: int, *, loss: LossSpec, temperature: float
) -> Tensor:
    fixed = float(label_logprob.detach())
    advantage = float(teacher.token_logprobs_N[n]) - fixed
    if loss.objective == "sampled_advantage" or (loss.objective == "asymmetric" and advantage > 0):
        clip = loss.advantage_clip or 0.0
        clipped = max(-clip, min(clip, advantage))
        return -clipped - clipped * (label_logprob - fixed)  # value -A, gradient -A grad log p_S(y)
    kept = [k for k in range(teacher.ids_NK.shape[1]) if math.isfinite(float(teacher.logprobs_NK[n, k]))]
    ids = teacher.ids_NK[n, kept]
    q_V = (logits_V / temperature).softmax(-1)
    p, q = teacher.logprobs_NK[n, kept].exp(), q_V[ids]
    has_tail = len(kept) < len(q_V) and loss.tail in ("bucket", "decoupled")
    if loss.tail == "renormalise":
        p, q = p / p.sum(), q / q.sum()
    if has_tail:
        outside = [v for v in range(len(q_V)) if v not in ids.tolist()]
        p, q = torch.cat([p, (1 - p.sum()).reshape(1)]), torch.cat([q, q_V[outside].sum().reshape(1)])
    return temperature**2 * dense_divergence(p, q, loss=loss, has_tail=has_tail)


def kl(p: Tensor, q: Tensor) -> Tensor:
    return torch.where(p > 0, p * (p / q).log(), 0.0).sum()


def dense_divergence(p: Tensor, q: Tensor, *, loss: LossSpec, has_tail: bool) -> Tensor:
    """D of two distributions, `p` the teacher's in descending order but for the tail, which is last."""
    a, b = loss.alpha or 0.0, loss.beta or 0.0
    match loss.divergence:
        case "forward_kl" if loss.tail == "decoupled":
            assert loss.head_entries is not None
            assert loss.tail_weight is not None
            h = min(loss.head_entries, len(p) - has_tail)
            if h == len(p):
                return kl(p, q)
            rest_p, rest_q = p[h:].sum(), q[h:].sum()
            modes = kl(torch.cat([p[:h], rest_p.reshape(1)]), torch.cat([q[:h], rest_q.reshape(1)]))
            return modes + loss.tail_weight * kl(p[h:] / rest_p, q[h:] / rest_q)
        case "forward_kl":
            return kl(p, q)
        case "reverse_kl":
            return kl(q, p)
        case "jsd":
            mixture = b * p + (1 - b) * q
            return b * kl(p, mixture) + (1 - b) * kl(q, mixture)
        case "skew_forward":
            return kl(p, (loss.skew or 0.0) * p + (1 - (loss.skew or 0.0)) * q)
        case "skew_reverse":
            return kl(q, (1 - (loss.skew or 0.0)) * p + (loss.skew or 0.0) * q)
        case "adaptive_kl":
            entries = len(p) - has_tail
            head = (p.cumsum(0) <= (loss.head_mass or 0.0)) & (torch.arange(len(p)) < entries)
            head[0] = True
            gap = (p - q).abs().detach()
            if gap.sum() == 0:
                return kl(p, q)
            return (gap[head].sum() * kl(p, q) + gap[~head].sum() * kl(q, p)) / gap.sum()
        case "tvd":
            return (p - q).abs().sum() / 2
        case "alpha_beta":
            return -(p**a * q**b - a / (a + b) * p ** (a + b) - b / (a + b) * q ** (a + b)).sum() / (a * b)
    raise AssertionError(loss)
