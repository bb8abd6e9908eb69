"""Divergences between a teacher p and a student q over a few outcomes, in nats per token.

Each takes `Outcomes`, log-masses t = log p and s = log q, and the recipe's loss for its parameters, and returns [N],
differentiable by s. They are the full-vocabulary divergences where the entries are the whole vocabulary; with a bucket
they are lower bounds of them (data-processing inequality), except for adaptive_kl and alpha_beta, which are no
f-divergences. Which tails go with which is `eyas.recipe.LEGAL`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from eyas.losses.outcomes import Outcomes
from eyas.recipe import Divergence, LossSpec


def forward_kl(over: Outcomes, loss: LossSpec) -> Tensor:
    """KL(p || q) = sum p (t - s): covers every mode of the teacher. With tail `decoupled` see `decoupled_kl`.

    Source: arXiv 2509.26497 and 2605.05940, over the teacher's top-k.
    """
    if loss.tail == "decoupled":
        return decoupled_kl(over, loss)
    return over.sum(over.teacher_NO.exp() * (over.teacher_NO - over.student_NO))


def reverse_kl(over: Outcomes, loss: LossSpec) -> Tensor:
    """KL(q || p) = sum q (s - t): seeks one mode of the teacher.

    Not what policy-gradient distillation optimises token by token: that is its sampled estimate, `sampled_advantage`.
    Source: arXiv 2306.08543.
    """
    return over.sum(over.student_NO.exp() * (over.student_NO - over.teacher_NO))


def jsd(over: Outcomes, loss: LossSpec) -> Tensor:
    """beta KL(p || M) + (1 - beta) KL(q || M) with M = beta p + (1 - beta) q, beta between 0 and 1.

    The convention is TRL's: beta weighs the teacher. KDFlow's beta weighs the student. Not scaled to become a KL as
    beta goes to 0 or 1: there it goes to 0 (TRL's special cases beta 0 and 1 are `forward_kl` and `reverse_kl`).
    Source: arXiv 2306.13649, equation 1; `generalized_jsd_loss` of TRL.
    """
    beta = required(loss.beta, "beta")
    mixture_NO = log_mixture(over.teacher_NO, over.student_NO, beta)
    teacher_NO = over.teacher_NO.exp() * (over.teacher_NO - mixture_NO)
    return over.sum(beta * teacher_NO + (1 - beta) * over.student_NO.exp() * (over.student_NO - mixture_NO))


def skew_forward(over: Outcomes, loss: LossSpec) -> Tensor:
    """KL(p || a p + (1 - a) q), a = `skew`: a forward KL whose ratio never exceeds 1/a.

    Not scaled by 1 / (1 - a)^2, so its gradient fades as a grows. Source: DistiLLM, arXiv 2402.03898, section 3.1.
    """
    mixture_NO = log_mixture(over.teacher_NO, over.student_NO, required(loss.skew, "skew"))
    return over.sum(over.teacher_NO.exp() * (over.teacher_NO - mixture_NO))


def skew_reverse(over: Outcomes, loss: LossSpec) -> Tensor:
    """KL(q || (1 - a) p + a q), a = `skew`. Source: DistiLLM, arXiv 2402.03898, section 3.1."""
    mixture_NO = log_mixture(over.student_NO, over.teacher_NO, required(loss.skew, "skew"))
    return over.sum(over.student_NO.exp() * (over.student_NO - mixture_NO))


def adaptive_kl(over: Outcomes, loss: LossSpec) -> Tensor:
    """(g_head KL(p || q) + g_tail KL(q || p)) / (g_head + g_tail), g the sums of |p - q| over head and tail.

    The head are the teacher's likeliest outcomes, as many as stay within the mass `head_mass`, and always the first;
    a bucket stands for the least likely ids and is never in it. The ratios are constants to the gradient, as in
    KDFlow; where both gaps are 0 so is every term. Not an f-divergence.
    Source: AKL, arXiv 2404.02657, section 4; the head's rule is its authors' code's (LLM_KD_AKL, mu = 0.5).
    """
    with torch.no_grad():
        p_NO, q_NO = (side.exp().masked_fill(~over.present_NO, 0.0) for side in (over.teacher_NO, over.student_NO))
        rank_by_NO = p_NO.clone()
        if over.bucket:
            rank_by_NO[:, -1] = -1.0
        order_NO = rank_by_NO.argsort(dim=-1, descending=True, stable=True)
        sorted_NO = p_NO.gather(-1, order_NO).cumsum(dim=-1) <= required(loss.head_mass, "head_mass")
        sorted_NO[:, 0] = True
        head_NO = torch.zeros_like(sorted_NO).scatter(-1, order_NO, sorted_NO)
        gap_NO = (p_NO - q_NO).abs()
        whole_N = gap_NO.sum(dim=-1)
        head_N = torch.where(whole_N > 0, (gap_NO * head_NO).sum(dim=-1) / whole_N, 0.5)
    forward_NO = over.teacher_NO.exp() * (over.teacher_NO - over.student_NO)
    reverse_NO = over.student_NO.exp() * (over.student_NO - over.teacher_NO)
    return head_N * over.sum(forward_NO) + (1 - head_N) * over.sum(reverse_NO)


def tvd(over: Outcomes, loss: LossSpec) -> Tensor:
    """Total variation distance, 1/2 sum |p - q|, between 0 and 1. Source: arXiv 2307.15190, section 3."""
    return 0.5 * over.sum((over.teacher_NO.exp() - over.student_NO.exp()).abs())


def alpha_beta(over: Outcomes, loss: LossSpec) -> Tensor:
    """-1/(ab) sum [p^a q^b - a/(a+b) p^(a+b) - b/(a+b) q^(a+b)], a = `alpha`, b = `beta`, both above 0.

    Goes to the forward KL as (a, b) goes to (1, 0) and to the reverse one at (0, 1). Not invariant to joining
    outcomes, so with a bucket it is another divergence than over the vocabulary.
    Source: ABKD, arXiv 2505.04560, definition 2, with its code's alpha 0.2 and beta 0.7 for language models.
    """
    a, b = required(loss.alpha, "alpha"), required(loss.beta, "beta")
    t, s = over.teacher_NO, over.student_NO
    terms_NO = (a * t + b * s).exp() - a / (a + b) * ((a + b) * t).exp() - b / (a + b) * ((a + b) * s).exp()
    return over.sum(terms_NO) / (-a * b)


def decoupled_kl(over: Outcomes, loss: LossSpec) -> Tensor:
    """KL over the first `head_entries` entries and everything else as one outcome, plus `tail_weight` times the KL
    between the rests renormalised, a bucket being one of their outcomes.

    With m the teacher's mass outside the head, a tail weight of m would make it the bucket's forward KL (chain rule);
    a larger one frees the tail from the teacher's modes.
    Source: of "Don't Ignore the Tail", arXiv 2602.20816, we had the abstract only: this is its idea in the form of
    decoupled KD (arXiv 2203.08679, equation 7) with the top entries in the target class's place, not its formula.
    """
    likeliest_NO = over.teacher_NO.masked_fill(~over.present_NO, -torch.inf)
    likeliest_NO[:, -1] = -torch.inf
    rank_NO = likeliest_NO.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    rest_NO = over.present_NO & ((rank_NO >= required(loss.head_entries, "head_entries")) | torch.isinf(likeliest_NO))
    empty_N1 = ~rest_NO.any(dim=-1, keepdim=True)
    teacher_N1, student_N1 = (
        torch.logsumexp(side.masked_fill(~rest_NO, -torch.inf).masked_fill(empty_N1, 0.0), dim=-1, keepdim=True)
        for side in (over.teacher_NO, over.student_NO)
    )
    difference_NO = over.teacher_NO - over.student_NO
    difference_N1 = teacher_N1 - student_N1
    head_N = over.sum((over.teacher_NO.exp() * difference_NO).masked_fill(rest_NO, 0.0))
    inside_NO = (over.teacher_NO - teacher_N1).exp() * (difference_NO - difference_N1)
    modes_N = head_N + (teacher_N1.exp() * difference_N1).masked_fill(empty_N1, 0.0).squeeze(-1)
    return modes_N + required(loss.tail_weight, "tail_weight") * inside_NO.masked_fill(~rest_NO, 0.0).sum(dim=-1)


def log_mixture(one_NO: Tensor, other_NO: Tensor, share: float) -> Tensor:
    """log(share e^one + (1 - share) e^other), share between 0 and 1."""
    logs = torch.log(one_NO.new_tensor([share, 1 - share]))
    return torch.logaddexp(one_NO + logs[0], other_NO + logs[1])


def required(value: float | None, name: str) -> float:
    """A parameter that LossSpec fills in for the divergences that have it.

    Raises: ValueError, where the spec was built without validation.
    """
    if value is None:
        raise ValueError(f"the loss lacks {name!r}; build LossSpec through its constructor, which fills it in.")
    return value


DIVERGENCES: dict[Divergence, Callable[[Outcomes, LossSpec], Tensor]] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jsd": jsd,
    "skew_forward": skew_forward,
    "skew_reverse": skew_reverse,
    "adaptive_kl": adaptive_kl,
    "tvd": tvd,
    "alpha_beta": alpha_beta,
}
