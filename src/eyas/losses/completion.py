"""The loss of completion tokens from their hidden states, with [tokens, vocabulary] never held whole.

Gradients are computed in the forward pass, chunk by chunk, as in Liger (arXiv 2410.10989, section 3.2): three matrix
products in all, nothing kept but the gradients themselves, nothing recomputed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from eyas.errors import ShapeError, TrainingError
from eyas.losses.head import CAST_ELEMENTS, Head, chunks, narrow_weight, statistics_dtype
from eyas.losses.objectives import distillation_terms
from eyas.losses.outcomes import present_entries
from eyas.losses.softmax import ChunkSoftmax, Statistics
from eyas.losses.teacher import SparseTeacher
from eyas.recipe import LossSpec


@dataclass(frozen=True)
class LossSums:
    """Sums over completion tokens, in nats, float32; dividing by the global token count is the caller's."""

    total: Tensor
    """sum of w [(1-lambda) c CE + lambda D], c the token's ce mask."""
    cross_entropy: Tensor
    """Unweighted sum of CE, without gradient."""
    divergence: Tensor
    """Unweighted sum of D, without gradient; zero without a teacher."""


# FSDP2 hooks the backward pass to the tensors it finds in what forward returns; older versions of torch find only those
# in registered containers.
torch.export.register_dataclass(LossSums)


@dataclass(frozen=True)
class _Targets:
    """What is compared with, per token."""

    labels_N: Tensor
    weights_N: Tensor
    ce_mask_N: Tensor
    teacher: SparseTeacher | None

    def __getitem__(self, rows: slice) -> _Targets:
        teacher = None if self.teacher is None else self.teacher[rows]
        return _Targets(self.labels_N[rows], self.weights_N[rows], self.ce_mask_N[rows], teacher)


def completion_loss(
    hidden_ND: Tensor,
    labels_N: Tensor,
    weights_N: Tensor,
    ce_mask_N: Tensor,
    teacher: SparseTeacher | None,
    *,
    head: Head,
    loss: LossSpec,
    temperature: float = 1.0,
) -> LossSums:
    """L = sum w [(1-lambda) CE + lambda D]; without a teacher lambda counts as 0.

    `temperature` is the one that the teacher was scored at. Differentiable once, by hidden states, the head's weight
    and its bias, where they require it; without gradients only the sums are computed. The products run in the head's
    type (autocast's where it is on), the rest in float32, or float64 for float64 hidden states; the weight's gradient
    is summed over chunks in float32 or wider.

    Raises: ShapeError, if the columns disagree in length.
    Source: arXiv 2509.26497.
    """
    targets = _Targets(labels_N, weights_N, ce_mask_N, teacher)
    lengths = [len(part) for part in (labels_N, weights_N, ce_mask_N, teacher if teacher is not None else labels_N)]
    if any(length != len(hidden_ND) for length in lengths):
        raise ShapeError(
            f"{len(hidden_ND)} hidden states with {lengths[0]} labels, {lengths[1]} weights, {lengths[2]} ce masks and "
            f"{lengths[3]} teacher rows: all must be the same N."
        )
    sums = _CompletionLoss.apply(  # type: ignore[no-untyped-call]
        hidden_ND, head.weight_VD, head.bias_V, head, targets, loss, temperature, torch.is_grad_enabled()
    )
    return LossSums(*sums)


class _CompletionLoss(torch.autograd.Function):
    """The weight and bias are arguments of their own, besides being in `head`, so that autograd sees them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        head: Head,
        targets: _Targets,
        loss: LossSpec,
        temperature: float,
        differentiate: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        wanted = tuple(needed and differentiate for needed in ctx.needs_input_grad[:3])
        gradients = _Gradients(hidden_ND, head, wanted=wanted) if any(wanted) else None
        narrow_VD = narrow_weight(head)
        sums = torch.zeros(3, dtype=statistics_dtype(hidden_ND), device=hidden_ND.device)
        buffers = 1 + (temperature != 1.0) + (head.soft_cap is not None and gradients is not None)
        for rows, logits_NV in chunks(hidden_ND, head=head, weight_VD=narrow_VD, buffers=buffers):
            slope_NV = None if gradients is None else _cap_slope(logits_NV, head)
            piece = targets[rows]
            sharp, soft = _softmaxes(logits_NV, piece, temperature=temperature)
            student = _statistics(sharp, soft)
            if gradients is None:
                sums += torch.stack(_objective(student, piece, loss=loss, temperature=temperature))
                continue
            student = student.detached()
            with torch.enable_grad():
                made = _objective(student, piece, loss=loss, temperature=temperature)
            sums += torch.stack(made).detach()
            by = _by_statistics(made[0], student)
            by_logits_NV = _by_logits(by, sharp, soft, scale=head.scale, temperature=temperature)
            if slope_NV is not None:
                by_logits_NV.mul_(slope_NV)
            gradients.add(rows, by_logits_NV.to(narrow_VD.dtype), hidden_ND=hidden_ND, weight_VD=narrow_VD)
        ctx.gradients = gradients
        total, ce, kd = (part.clone() for part in sums)  # FSDP2 warns of views
        ctx.mark_non_differentiable(ce, kd)
        return total, ce, kd

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_total: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise TrainingError("the loss can be differentiated once: its gradients were scaled in place.")
        made = ctx.gradients.scaled(by_total)
        ctx.gradients = None
        return (*made, *[None] * 5)


def _softmaxes(logits_NV: Tensor, targets: _Targets, *, temperature: float) -> tuple[ChunkSoftmax, ChunkSoftmax]:
    """The student as it is and softened; the same object at T = 1. Takes over the logits' memory."""
    labels_N = targets.labels_N
    if targets.teacher is None:
        ids_NK = labels_N.new_empty(len(labels_N), 0)
        present_NK = ids_NK.bool()
    else:
        ids_NK, present_NK = targets.teacher.ids_NK, present_entries(targets.teacher.logprobs_NK)
    softened_NV = logits_NV / temperature if temperature != 1.0 else None
    sharp = ChunkSoftmax.of(logits_NV, ids_NK=ids_NK, present_NK=present_NK, labels_N=labels_N)
    if softened_NV is None:
        return sharp, sharp
    return sharp, ChunkSoftmax.of(softened_NV, ids_NK=ids_NK, present_NK=present_NK, labels_N=labels_N)


def _statistics(sharp: ChunkSoftmax, soft: ChunkSoftmax) -> Statistics:
    """Entries and tail softened, the label not."""
    softened = soft.statistics()
    label_N = softened.label_N if soft is sharp else sharp.statistics().label_N
    return Statistics(softened.entries_NK, softened.tail_N, label_N)


def _objective(
    student: Statistics, targets: _Targets, *, loss: LossSpec, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(total, CE, D), each summed over the chunk."""
    ce_N = -student.label_N
    weights_N, ce_mask_N = targets.weights_N.to(ce_N.dtype), targets.ce_mask_N.to(ce_N.dtype)
    if targets.teacher is None:
        return (weights_N * ce_mask_N * ce_N).sum(), ce_N.sum(), ce_N.new_zeros(())
    kd_N = distillation_terms(student, targets.teacher, loss=loss, temperature=temperature)
    total = (weights_N * ((1 - loss.kd_weight) * ce_mask_N * ce_N + loss.kd_weight * kd_N)).sum()
    return total, ce_N.sum(), kd_N.sum()


def _by_statistics(total: Tensor, student: Statistics) -> Statistics:
    leaves = (student.entries_NK, student.tail_N, student.label_N)
    found = torch.autograd.grad(total, leaves, allow_unused=True)
    made = [torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(leaves, found, strict=True)]
    return Statistics(*made)


def _by_logits(by: Statistics, sharp: ChunkSoftmax, soft: ChunkSoftmax, *, scale: float, temperature: float) -> Tensor:
    """dL/d(h W^T + b) but for the soft cap's slope: the scale and 1/T are multiplied in where the tensors are small."""
    entries_NK, tail_N, label_N = by.entries_NK * scale, by.tail_N * scale, by.label_N * scale
    if soft is sharp:
        return sharp.gradient_(Statistics(entries_NK, tail_N, label_N))
    softened = Statistics(entries_NK / temperature, tail_N / temperature, torch.zeros_like(label_N))
    plain = Statistics(torch.zeros_like(entries_NK), torch.zeros_like(tail_N), label_N)
    return sharp.gradient_(plain).add_(soft.gradient_(softened))


def _cap_slope(logits_NV: Tensor, head: Head) -> Tensor | None:
    """d cap tanh(z / cap) / dz = 1 - (capped / cap)^2."""
    if head.soft_cap is None:
        return None
    return (logits_NV / head.soft_cap).square_().neg_().add_(1.0)


class _Gradients:
    """dL/dhidden, dL/dweight and dL/dbias, those that are wanted, filled chunk by chunk."""

    def __init__(self, hidden_ND: Tensor, head: Head, *, wanted: tuple[bool, ...]) -> None:
        self._size, bias_V = head.size, head.bias_V
        self._by_hidden_ND = torch.empty_like(hidden_ND) if wanted[0] else None
        wide = torch.promote_types(head.weight_VD.dtype, torch.float32)  # sums of chunks need more digits than bfloat16
        self._by_weight_VD = torch.zeros_like(head.weight_VD, dtype=wide) if wanted[1] else None
        self._dtype = head.weight_VD.dtype
        self._by_bias_V = torch.zeros_like(bias_V) if wanted[2] and bias_V is not None else None

    def add(self, rows: slice, by_logits_NV: Tensor, *, hidden_ND: Tensor, weight_VD: Tensor) -> None:
        """One chunk's part; the products run in the type of `by_logits_NV` and `weight_VD`."""
        if self._by_bias_V is not None:
            self._by_bias_V[: self._size].add_(by_logits_NV.sum(dim=0))
        if self._by_hidden_ND is not None:
            _product_into(self._by_hidden_ND[rows], by_logits_NV, weight_VD)
        if self._by_weight_VD is not None:
            _add_product(self._by_weight_VD[: self._size], by_logits_NV.T, hidden_ND[rows].to(by_logits_NV.dtype))

    def scaled(self, by_total: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The three, times the gradient that comes in, in place: nothing of their size is made anew."""
        found = (self._by_hidden_ND, self._by_weight_VD, self._by_bias_V)
        made = [None if part is None else part.mul_(by_total.to(part.dtype)) for part in found]
        return made[0], None if made[1] is None else made[1].to(self._dtype), made[2]


def _product_into(out_ND: Tensor, left_NV: Tensor, right_VD: Tensor) -> None:
    """out = left @ right."""
    if out_ND.dtype == left_NV.dtype:
        torch.mm(left_NV, right_VD, out=out_ND)
    else:
        out_ND.copy_(torch.mm(left_NV, right_VD))


def _add_product(out_VD: Tensor, left_VN: Tensor, right_ND: Tensor) -> None:
    """out += left @ right; where out is wider than the product, in blocks of rows of CAST_ELEMENTS."""
    if out_VD.dtype == left_VN.dtype:
        out_VD.addmm_(left_VN, right_ND)
        return
    step = max(1, CAST_ELEMENTS // out_VD.shape[1])
    for start in range(0, len(out_VD), step):
        block = slice(start, start + step)
        out_VD[block].add_(torch.mm(left_VN[block], right_ND))
