"""Every legal loss against the dense float64 reference: values and gradients, however it is cut."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from dense_reference import Case, case, dense_divergence, dense_loss, legal_losses, name_of

from eyas.errors import ShapeError
from eyas.losses import Head, SparseTeacher, chunks, completion_loss, head
from eyas.recipe import LossSpec

LOSSES = legal_losses()


def both(made: Case, *, of: Head, loss: LossSpec, temperature: float) -> None:
    """Assert that sums and gradients agree to float64 rounding."""
    leaves = [leaf for leaf in (made.hidden_ND, of.weight_VD, of.bias_V) if leaf is not None]
    ours = completion_loss(*made.columns, head=of, loss=loss, temperature=temperature)
    total, ce, kd = dense_loss(made, head=of, loss=loss, temperature=temperature)
    for found, wanted in ((ours.total, total), (ours.cross_entropy, ce), (ours.divergence, kd)):
        torch.testing.assert_close(found.detach(), wanted.detach(), rtol=1e-10, atol=1e-11)
    found = torch.autograd.grad(ours.total * 0.37, leaves)
    for one, other in zip(found, torch.autograd.grad(total * 0.37, leaves), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("elements", [head.CHUNK_ELEMENTS, 3 * 19], ids=["whole", "chunked"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("loss", LOSSES, ids=name_of)
def test_values_and_gradients_equal_the_dense_reference(
    loss: LossSpec, temperature: float, elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", elements)
    made = case(plain=True)
    both(made, of=Head(made.weight_VD), loss=loss, temperature=temperature)
    made = case(seed=1)
    of = Head(made.weight_VD, made.bias_V, scale=0.7, soft_cap=2.5, vocabulary=17)
    fits = (made.teacher.ids_NK < 17) & torch.isfinite(made.teacher.logprobs_NK)
    fits[:, 0] = True
    ids_NK = torch.where(fits, made.teacher.ids_NK, made.teacher.ids_NK[:, :1])
    logprobs_NK = made.teacher.logprobs_NK.masked_fill(~fits, -math.inf)
    keep = (ids_NK[:, 0] < 17) & (made.labels_N < 17)
    tail_N = (1 - logprobs_NK.exp().sum(-1)).log()
    cut = Case(
        made.hidden_ND[keep].detach().requires_grad_(), made.weight_VD, made.bias_V, made.labels_N[keep],
        made.weights_N[keep], made.ce_mask_N[keep],
        SparseTeacher(ids_NK[keep], logprobs_NK[keep], tail_N[keep], made.teacher.token_logprobs_N[keep]),
    )  # fmt: skip
    assert 3 < keep.sum() < len(keep) + 1
    both(cut, of=of, loss=loss, temperature=temperature)


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss.tail != "drop"], ids=name_of)
def test_with_the_whole_vocabulary_as_entries_it_is_the_exact_divergence(loss: LossSpec) -> None:
    made = case(v=9, k=9, ragged=False, plain=True)
    both(made, of=Head(made.weight_VD), loss=loss, temperature=1.0)
    if loss.objective != "divergence":
        return
    student_NV = (made.hidden_ND @ made.weight_VD.T).softmax(-1).detach()
    p_NK, q_NK = made.teacher.logprobs_NK.exp(), student_NV.gather(-1, made.teacher.ids_NK)
    exact = sum(dense_divergence(p, q, loss=loss, has_tail=False) for p, q in zip(p_NK, q_NK, strict=True))
    ours = completion_loss(*made.columns, head=Head(made.weight_VD), loss=loss)
    assert ours.divergence.item() == pytest.approx(float(exact), rel=1e-12)


def test_forward_kl_with_bucket_by_hand() -> None:
    # Teacher keeps {0: 1/2, 1: 1/4}, tail 1/4. Student is uniform over 4: 1/4, 1/4, tail 1/2.
    # 1/2 log(2) + 1/4 log(1) + 1/4 log(1/2) = 1/4 log 2.
    logprobs = torch.tensor([[0.5, 0.25]], dtype=torch.float64).log()
    teacher = SparseTeacher(torch.tensor([[0, 1]]), logprobs, logprobs[:, 1], logprobs[:, 0])
    one = torch.ones(1)
    zeros = torch.zeros(1, 4, dtype=torch.float64)
    sums = completion_loss(
        zeros, torch.tensor([0]), one, one, teacher, head=Head(torch.eye(4, dtype=torch.float64)), loss=LossSpec()
    )
    assert sums.divergence.item() == pytest.approx(0.25 * math.log(2), abs=1e-14)
    assert sums.cross_entropy.item() == pytest.approx(math.log(4), abs=1e-14)
    assert sums.total.item() == pytest.approx(0.1 * math.log(4) + 0.9 * 0.25 * math.log(2), abs=1e-14)


def test_the_decoupled_tail_weighted_by_its_mass_is_the_buckets_kl() -> None:
    made = case(n=1, ragged=False)
    mass = 1 - float(made.teacher.logprobs_NK[0, :2].exp().sum())
    decoupled = LossSpec(tail="decoupled", head_entries=2, tail_weight=mass)
    results = []
    for loss in (decoupled, LossSpec()):
        sums = completion_loss(*made.columns, head=Head(made.weight_VD), loss=loss)
        results.append((sums.divergence, *torch.autograd.grad(sums.total, (made.hidden_ND, made.weight_VD))))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_the_advantage_gradient_by_hand() -> None:
    # Student (1/2, 1/4, 1/4), token 0, teacher's log-prob log(3/4): A = log(3/2). Loss -A log p_S(0), so
    # dL/dz = -A (onehot - p) = -A (1/2, -1/4, -1/4); with lambda 1. Clipped at 0.1 the A is 0.1.
    logits = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log().requires_grad_()
    own = torch.tensor([0.75], dtype=torch.float64).log()
    teacher = SparseTeacher(torch.tensor([[0]]), own[:, None], torch.tensor([0.25]).log().double(), own)
    one = torch.ones(1, dtype=torch.float64)
    for clip, advantage in ((None, math.log(1.5)), (0.1, 0.1)):
        loss = LossSpec(objective="sampled_advantage", advantage_clip=clip, **{"lambda": 1.0})
        of = Head(torch.eye(3, dtype=torch.float64))
        sums = completion_loss(logits, torch.tensor([0]), one, one, teacher, head=of, loss=loss)
        assert sums.total.item() == sums.divergence.item() == pytest.approx(-advantage)
        (found,) = torch.autograd.grad(sums.total, logits)
        wanted = -advantage * torch.tensor([[0.5, -0.25, -0.25]], dtype=torch.float64)
        torch.testing.assert_close(found, wanted)


def test_without_a_teacher_it_is_cross_entropy() -> None:
    made = case()
    of = Head(made.weight_VD, made.bias_V)
    sums = completion_loss(*made.columns[:4], None, head=of, loss=LossSpec())
    ce_N = torch.nn.functional.cross_entropy(
        made.hidden_ND @ made.weight_VD.T + made.bias_V, made.labels_N, reduction="none"
    )
    wanted = (made.weights_N * made.ce_mask_N * ce_N).sum()
    torch.testing.assert_close(sums.total, wanted)
    assert sums.divergence == 0
    leaves = (made.hidden_ND, made.weight_VD, made.bias_V)
    for one, other in zip(torch.autograd.grad(sums.total, leaves), torch.autograd.grad(wanted, leaves), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("loss", LOSSES, ids=name_of)
def test_without_gradients_the_sums_are_the_same(loss: LossSpec) -> None:
    made = case()
    of = Head(made.weight_VD, made.bias_V, soft_cap=3.0)
    trained = completion_loss(*made.columns, head=of, loss=loss)
    with torch.inference_mode():
        measured = completion_loss(*made.columns, head=of, loss=loss)
    assert not measured.total.requires_grad
    assert not trained.divergence.requires_grad
    for one, other in ((trained.total, measured.total), (trained.divergence, measured.divergence)):
        assert one.item() == other.item()


def test_chunks_yield_the_heads_logits() -> None:
    made = case()
    of = Head(made.weight_VD, made.bias_V, scale=0.5, soft_cap=4.0)
    whole_NV = 4 * torch.tanh(0.5 * (made.hidden_ND @ made.weight_VD.T + made.bias_V) / 4)
    found_NV = torch.cat([logits_NV.clone() for _, logits_NV in chunks(made.hidden_ND, head=of)])
    torch.testing.assert_close(found_NV, whole_NV.detach())
    torch.testing.assert_close(of(made.hidden_ND[:2]), whole_NV[:2].detach())
    assert replace(of, vocabulary=5)(made.hidden_ND).shape == (7, 5)
    assert list(chunks(made.hidden_ND[:0], head=of)) == []


def test_shapes_that_disagree_are_an_error() -> None:
    made = case()
    with pytest.raises(ShapeError, match="all must be the same N"):
        completion_loss(made.hidden_ND[:3], *made.columns[1:], head=Head(made.weight_VD), loss=LossSpec())
    with pytest.raises(ShapeError, match=r"\[N, K\], \[N, K\]"):
        replace(made.teacher, logprobs_NK=made.teacher.logprobs_NK[:, :2])
    with pytest.raises(ShapeError, match=r"weight \[V, D\] and bias \[V\]"):
        Head(made.weight_VD, made.bias_V[:3])
