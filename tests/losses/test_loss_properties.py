"""What holds of the losses whatever the numbers: signs, zeros, invariances, finiteness, unbiasedness."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from dense_reference import Case, case, legal_losses, name_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from eyas.losses import Head, LossSums, SparseTeacher, completion_loss, head
from eyas.recipe import LossSpec

DIVERGENCES = [loss for loss in legal_losses() if loss.objective == "divergence" and loss.tail != "drop"]


def of_logits(logits_NV: Tensor, teacher: SparseTeacher, *, loss: LossSpec, temperature: float = 1.0) -> LossSums:
    """The loss of given logits; the label is the teacher's first entry."""
    ones_N = torch.ones(len(logits_NV))
    of = Head(torch.eye(logits_NV.shape[1], dtype=logits_NV.dtype))
    labels_N = teacher.ids_NK[:, 0]
    return completion_loss(logits_NV, labels_N, ones_N, ones_N, teacher, head=of, loss=loss, temperature=temperature)


def teacher_of_logits(logits_NV: Tensor, k: int) -> SparseTeacher:
    full_NV = logits_NV.double().log_softmax(-1)
    logprobs_NK, ids_NK = full_NV.topk(k, -1)
    tail_N = full_NV.scatter(-1, ids_NK, -torch.inf).logsumexp(-1)
    return SparseTeacher(ids_NK, logprobs_NK.float(), tail_N.float(), logprobs_NK[:, 0].float())


@pytest.mark.parametrize("k", [4, 32])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("loss", DIVERGENCES, ids=name_of)
def test_a_model_against_itself_has_zero_loss_and_zero_gradient(loss: LossSpec, temperature: float, k: int) -> None:
    logits = torch.randn(16, 32, generator=torch.Generator().manual_seed(3), requires_grad=True)
    pure = loss.model_copy(update={"kd_weight": 1.0})
    sums = of_logits(logits, teacher_of_logits(logits.detach() / temperature, k), loss=pure, temperature=temperature)
    assert abs(sums.divergence) / 16 < 1e-5
    (gradient,) = torch.autograd.grad(sums.total, logits)
    # TVD has no gradient at its minimum: the sign of a rounding error is one.
    assert loss.divergence == "tvd" or gradient.abs().max() < 1e-5


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 12), scale=st.floats(0.1, 12.0), hot=st.booleans())
def test_divergences_are_never_negative(seed: int, k: int, scale: float, hot: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = scale * torch.randn(2, 1, 12, generator=generator, dtype=torch.float64)
    for loss in DIVERGENCES:
        sums = of_logits(student, teacher_of_logits(teacher, k), loss=loss, temperature=2.0 if hot else 1.0)
        assert sums.divergence > -1e-6, name_of(loss)


def result(made: Case, *, loss: LossSpec) -> list[Tensor]:
    sums = completion_loss(*made.columns, head=Head(made.weight_VD, made.bias_V), loss=loss)
    leaves = (made.hidden_ND, made.weight_VD, made.bias_V)
    return [sums.total.detach(), sums.divergence, *torch.autograd.grad(sums.total, leaves)]


def assert_same(one: list[Tensor], other: list[Tensor]) -> None:
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(2, 8), extra=st.integers(0, 3), rows=st.integers(1, 7))
def test_order_padding_and_chunks_of_entries_change_nothing(seed: int, k: int, extra: int, rows: int) -> None:
    made = case(k=k, seed=seed)
    order = torch.randperm(k, generator=torch.Generator().manual_seed(seed))
    order = order[torch.argsort((order != 0).long(), stable=True)]  # padding repeats the first id: it stays first
    ids_NK, logprobs_NK = made.teacher.ids_NK[:, order], made.teacher.logprobs_NK[:, order]
    ids_NK = torch.cat([ids_NK, ids_NK[:, :1].expand(-1, extra)], dim=-1)
    logprobs_NK = torch.cat([logprobs_NK, torch.full((7, extra), -math.inf, dtype=torch.float64)], dim=-1)
    other = replace(made, teacher=replace(made.teacher, ids_NK=ids_NK, logprobs_NK=logprobs_NK))
    with pytest.MonkeyPatch.context() as patch:
        for loss in legal_losses():
            patch.setattr(head, "CHUNK_ELEMENTS", 2**24)
            whole = result(made, loss=loss)
            patch.setattr(head, "CHUNK_ELEMENTS", rows * 19)
            assert_same(whole, result(other, loss=loss))


@pytest.mark.parametrize("mass", [1e-3, 1e-6, 1e-9, 1e-12, 0.0])
@pytest.mark.parametrize("gap", [0.0, 30.0, 60.0, 200.0])
@pytest.mark.parametrize("loss", legal_losses(), ids=name_of)
def test_small_tails_stay_finite(loss: LossSpec, gap: float, mass: float) -> None:
    logits = torch.tensor([[gap, 0.0, -1.0, 2.0]], requires_grad=True)
    logprobs = torch.tensor([[math.log1p(-mass)]])
    teacher = SparseTeacher(
        torch.tensor([[0]]), logprobs, torch.tensor([math.log(mass) if mass else -math.inf]), logprobs[:, 0]
    )
    sums = of_logits(logits, teacher, loss=loss)
    (gradient,) = torch.autograd.grad(sums.total, logits)
    assert torch.isfinite(sums.total)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("mass", [1e-6, 1e-9, 1e-12])
def test_a_tail_that_float32_cannot_see_beside_one_is_exact(mass: float) -> None:
    # Student's tail: 3 ids at log(mass/3). KL over {entry, tail} with the teacher's tail 2 mass:
    # (1 - 2m) log((1 - 2m)/(1 - m)) + 2m log 2 = m (2 log 2 - 1) + O(m^2).
    logits = torch.tensor([[0.0] + 3 * [math.log(mass / 3)]], requires_grad=True)
    tail = torch.tensor([math.log(2 * mass)])
    teacher = SparseTeacher(torch.tensor([[0]]), torch.log1p(-torch.tensor([[2 * mass]])), tail, tail)
    loss = LossSpec(**{"lambda": 1.0})
    (gradient,) = torch.autograd.grad(of_logits(logits, teacher, loss=loss).total, logits)
    # dD/dz of an id outside: p_j - m_T p_j / m_S = m/3 (1 - 2) = -m/3.
    torch.testing.assert_close(gradient[0, 1:], torch.full((3,), -mass / 3), rtol=1e-4, atol=0)


def test_random_sampling_is_unbiased() -> None:
    # 4000 sets of 8 draws each: the mean gradient is the full forward KL's within 5 standard errors in every
    # component; top-3 without a tail is not, by far.
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 12, generator=generator, dtype=torch.float64).requires_grad_()
    full = (2 * torch.randn(1, 12, generator=generator, dtype=torch.float64)).softmax(-1)
    wanted = (logits.softmax(-1) - full).detach()
    pure, sets, draws = LossSpec(**{"lambda": 1.0}), 4000, 8
    drawn = torch.multinomial(full[0], sets * draws, replacement=True, generator=generator).view(sets, draws)
    counts = torch.zeros(sets, 12, dtype=torch.float64).scatter_add(-1, drawn, torch.ones(sets, draws).double())
    order = counts.argsort(dim=-1, descending=True)[:, :draws]
    logprobs = (counts.gather(-1, order) / draws).log()
    ids = torch.where(torch.isfinite(logprobs), order, order[:, :1])
    none = torch.full((sets,), -math.inf)
    many = logits.detach().expand(sets, -1).clone().requires_grad_()
    sums = of_logits(many, SparseTeacher(ids, logprobs, none, none), loss=pure)
    (found,) = torch.autograd.grad(sums.total, many)
    error = found.mean(0) - wanted[0]
    standard = found.std(0) / math.sqrt(sets)
    assert (error.abs() <= 5 * standard + 1e-12).all()
    top = teacher_of_logits(full.log(), 3)
    (biased,) = torch.autograd.grad(of_logits(logits, top, loss=LossSpec(tail="drop", **{"lambda": 1.0})).total, logits)
    assert ((biased - wanted)[0].abs() > 5 * standard).any()


def test_the_gradient_of_random_sampling_is_the_students_probability_minus_the_share() -> None:
    logits = torch.randn(1, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True)
    shares = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64)
    none = torch.tensor([-math.inf])
    teacher = SparseTeacher(torch.tensor([[4, 0, 3]]), shares.log(), none, none)
    (found,) = torch.autograd.grad(of_logits(logits, teacher, loss=LossSpec(**{"lambda": 1.0})).total, logits)
    target = torch.zeros(1, 6, dtype=torch.float64).scatter(-1, teacher.ids_NK, shares)
    torch.testing.assert_close(found, logits.detach().softmax(-1) - target, rtol=1e-9, atol=1e-12)


def test_autocast_computes_products_in_bfloat16_and_the_rest_in_float32() -> None:
    made = case(n=64, v=200, d=32, k=10, ragged=False)
    hidden, weight = (made.hidden_ND.detach().float() / 4).requires_grad_(), made.weight_VD.detach().float()
    weight.requires_grad_()
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            sums = completion_loss(hidden, *made.columns[1:], head=Head(weight), loss=LossSpec())
        results.append((sums.total, *torch.autograd.grad(sums.total, (hidden, weight))))
    for exact, narrow in zip(*results, strict=True):
        assert narrow.dtype == torch.float32
        assert not torch.equal(exact, narrow)
        assert (exact - narrow).norm() < 0.02 * exact.norm()
