"""Tails: from the teacher's entries and the student's log-probs of them to two distributions over few outcomes.

The tail is the mass outside the entries, m = 1 - sum of p over them:

  bucket       one more outcome with the mass m on both sides (the "ghost token" of arXiv 2503.16870)
  renormalise  both sides divided by their mass in the entries; blind to student mass outside the entries
  drop         the plain sum over the entries; no divergence: its optimum is over-confident (2503.16870, section 2)
  decoupled    the same outcomes as bucket; how they are weighed is `divergences.decoupled_kl`
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from eyas.losses.softmax import Statistics
from eyas.losses.teacher import SparseTeacher
from eyas.recipe import Tail

LOG_FLOOR = -69.0
"""log(1e-30): least log-mass of the teacher's outcomes and of the student's tail, so that an exactly empty tail stays
finite. It is 1e18 times smaller than the smallest tail that float32 logits can tell from rounding."""


@dataclass(frozen=True)
class Outcomes:
    """Log-masses per token over O outcomes: the entries and, with a bucket, the tail as the last one."""

    teacher_NO: Tensor
    student_NO: Tensor
    present_NO: Tensor
    """False for padding and for a tail that holds no ids; there both log-masses are 0 and count nothing."""
    bucket: bool

    def sum(self, terms_NO: Tensor) -> Tensor:
        """Sum over the outcomes that are present, [N]."""
        return terms_NO.masked_fill(~self.present_NO, 0.0).sum(dim=-1)


def present_entries(logprobs_NK: Tensor) -> Tensor:
    """Which entries are no padding, bool [N, K]; the first never is."""
    present_NK = torch.isfinite(logprobs_NK)
    present_NK[:, :1] = True
    return present_NK


def outcomes(student: Statistics, teacher: SparseTeacher, *, tail: Tail) -> Outcomes:
    """Both sides' log-masses in the student's type; differentiable by the student's."""
    present_NO = present_entries(teacher.logprobs_NK)
    student_NO = student.entries_NK
    teacher_NO = teacher.logprobs_NK.to(student_NO.dtype).clamp(min=LOG_FLOOR)
    bucket = tail in ("bucket", "decoupled")
    if tail == "renormalise":
        teacher_NO, student_NO = (
            side - torch.logsumexp(side.masked_fill(~present_NO, -torch.inf), dim=-1, keepdim=True)
            for side in (teacher_NO, student_NO)
        )
    if bucket:
        student_N1, teacher_N1 = student.tail_N.unsqueeze(-1), teacher.tail_N.to(student_NO.dtype).unsqueeze(-1)
        somewhere_N1 = torch.isfinite(student_N1) | torch.isfinite(teacher_N1)
        student_NO = torch.cat([student_NO, student_N1.clamp(min=LOG_FLOOR)], dim=-1)
        teacher_NO = torch.cat([teacher_NO, teacher_N1.clamp(min=LOG_FLOOR)], dim=-1)
        present_NO = torch.cat([present_NO, somewhere_N1], dim=-1)
    absent_NO = ~present_NO
    return Outcomes(teacher_NO.masked_fill(absent_NO, 0.0), student_NO.masked_fill(absent_NO, 0.0), present_NO, bucket)
