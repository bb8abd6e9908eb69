"""Objectives: what is minimised per completion token, from the student's statistics and the teacher's entries."""

from __future__ import annotations

import torch
from torch import Tensor

from eyas.logcodes import TOKEN_STEP
from eyas.losses.divergences import DIVERGENCES, required
from eyas.losses.outcomes import outcomes
from eyas.losses.softmax import Statistics
from eyas.losses.teacher import SparseTeacher
from eyas.recipe import LossSpec


def distillation_terms(
    student: Statistics, teacher: SparseTeacher, *, loss: LossSpec, temperature: float = 1.0
) -> Tensor:
    """D per token, [N], in nats. The student's entries and tail are softened by `temperature`, its label is not.

    divergence          T^2 D(teacher || student), both softened by T: the factor keeps gradients comparable across
                        temperatures (arXiv 1503.02531, section 2)
    sampled_advantage   `policy_gradient`
    asymmetric          `policy_gradient` where the teacher gives the token more than the student does, the divergence
                        elsewhere (AOPD, arXiv 2605.06387, known second-hand: forward KL over the teacher's top 32)
    """
    if loss.objective == "sampled_advantage":
        return policy_gradient(student, teacher, loss=loss)
    over = outcomes(student, teacher, tail=loss.tail)
    divergence_N = temperature**2 * DIVERGENCES[loss.divergence](over, loss)
    if loss.objective == "divergence":
        return divergence_N
    # Half a step of the cache's code: a teacher that is as sure as the student must not count as above it.
    above_N = teacher.token_logprobs_N > student.label_N.detach() + TOKEN_STEP / 2
    return torch.where(above_N, policy_gradient(student, teacher, loss=loss), divergence_N)


def policy_gradient(student: Statistics, teacher: SparseTeacher, *, loss: LossSpec) -> Tensor:
    """A term with value -A and gradient -A grad log p_S(y), A = log p_T(y) - log p_S(y) held constant and clipped.

    Summed over tokens drawn from the student, -A estimates KL(student || teacher) and the gradient is that of it.
    Negative where the teacher likes the token better: no divergence. No importance ratio: the tokens count as the
    student's own, though it moves away from the one that drew them (bounded in the source).
    Source: Lightning OPD, arXiv 2604.13010, section 3, with its clip at 10.
    """
    clip = required(loss.advantage_clip, "advantage_clip")
    fixed_N = student.label_N.detach()
    advantage_N = (teacher.token_logprobs_N.to(fixed_N.dtype) - fixed_N).clamp(min=-clip, max=clip)
    return -advantage_N * (1.0 + student.label_N - fixed_N)
