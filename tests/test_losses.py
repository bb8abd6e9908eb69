"""The sparse losses against hand-computed values, a dense float64 reference, autograd and their own properties."""

from __future__ import annotations

import decimal
import itertools
import math
from decimal import Decimal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eyas import losses
from eyas.errors import ShapeError
from eyas.losses import completion_loss, log1mexp, sparse_divergence

COMBINATIONS = list(itertools.product(("forward_kl", "reverse_kl", "jsd"), ("bucket", "renormalise", "drop")))


def dense(logits: torch.Tensor, ids: torch.Tensor, logprobs: torch.Tensor, divergence: str, tail: str) -> torch.Tensor:
    """Outcome by outcome in plain probabilities, float64, one token at a time."""
    rows = []
    for n in range(len(logits)):
        student_all = logits[n].softmax(-1)
        kept = [k for k in range(ids.shape[1]) if math.isfinite(float(logprobs[n, k]))]
        teacher = logprobs[n, kept].exp()
        student = student_all[ids[n, kept]]
        if tail == "renormalise":
            teacher, student = teacher / teacher.sum(), student / student.sum()
        if tail == "bucket" and len(kept) < len(student_all):
            outside = [v for v in range(len(student_all)) if v not in ids[n, kept].tolist()]
            teacher = torch.cat([teacher, (1 - teacher.sum()).reshape(1)])
            student = torch.cat([student, student_all[outside].sum().reshape(1)])
        mixture = (teacher + student) / 2
        forward = (teacher * (teacher / student).log()).sum()
        reverse = (student * (student / teacher).log()).sum()
        both = (teacher * (teacher / mixture).log()).sum() + (student * (student / mixture).log()).sum()
        rows.append({"forward_kl": forward, "reverse_kl": reverse, "jsd": both / 2}[divergence])
    return torch.stack(rows)


def case(n: int, v: int, k: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, v, generator=generator, dtype=torch.float64) * 2
    teacher = torch.log_softmax(torch.randn(n, v, generator=generator, dtype=torch.float64) * 2, -1)
    logprobs, ids = teacher.topk(k, dim=-1)
    return logits.requires_grad_(), ids, logprobs


def test_forward_kl_with_bucket_by_hand() -> None:
    # Teacher keeps {0: 1/2, 1: 1/4}, tail 1/4. Student is uniform over 4: 1/4, 1/4, tail 1/2.
    # 1/2 log(2) + 1/4 log(1) + 1/4 log(1/2) = 1/4 log 2.
    value = sparse_divergence(
        torch.zeros(1, 4, dtype=torch.float64),
        torch.tensor([[0, 1]]),
        torch.tensor([[math.log(0.5), math.log(0.25)]], dtype=torch.float64),
        divergence="forward_kl",
        tail="bucket",
    )
    assert value.item() == pytest.approx(0.25 * math.log(2), abs=1e-14)


@pytest.mark.parametrize(("divergence", "tail"), COMBINATIONS)
@pytest.mark.parametrize("k", [1, 5, 11])
def test_values_and_gradients_equal_the_dense_reference(divergence: str, tail: str, k: int) -> None:
    logits, ids, logprobs = case(6, 11, k, seed=k)
    logprobs = logprobs.clone()
    if k == 5:
        logprobs[0, 3:] = -torch.inf
        ids = ids.clone()
        ids[0, 3:] = ids[0, 0]
    ours = sparse_divergence(logits, ids, logprobs, divergence=divergence, tail=tail)  # type: ignore[arg-type]
    theirs = dense(logits, ids, logprobs, divergence, tail)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(
        torch.autograd.grad(ours.sum(), logits, retain_graph=True)[0],
        torch.autograd.grad(theirs.sum(), logits)[0],
        rtol=1e-8,
        atol=1e-10,
    )


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
@pytest.mark.parametrize("k", [4, 32])
def test_a_model_against_itself_has_zero_loss_and_zero_gradient(divergence: str, k: int) -> None:
    logits = torch.randn(16, 32, generator=torch.Generator().manual_seed(3), requires_grad=True)
    logprobs, ids = torch.log_softmax(logits.detach(), -1).topk(k, -1)
    value = sparse_divergence(logits, ids, logprobs, divergence=divergence, tail="bucket")  # type: ignore[arg-type]
    assert value.abs().max() < 1e-5
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert gradient.abs().max() < 1e-5


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 12), scale=st.floats(0.1, 12.0))
def test_divergences_are_never_negative(seed: int, k: int, scale: float) -> None:
    logits, ids, logprobs = case(4, 12, k, seed)
    for divergence in ("forward_kl", "reverse_kl", "jsd"):
        value = sparse_divergence(
            logits.detach() * scale,
            ids,
            logprobs,
            divergence=divergence,  # type: ignore[arg-type]
            tail="bucket",
        )
        assert value.min() > -1e-9


@pytest.mark.parametrize("mass", [1e-3, 1e-6, 1e-9, 1e-12, 0.0])
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
def test_small_tails_stay_finite(mass: float, divergence: str) -> None:
    logits = torch.tensor([[30.0, 0.0, -1.0, 2.0]], requires_grad=True)
    logprobs = torch.tensor([[math.log1p(-mass)]])
    value = sparse_divergence(logits, torch.tensor([[0]]), logprobs, divergence=divergence, tail="bucket")  # type: ignore[arg-type]
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert torch.isfinite(value).all()
    assert torch.isfinite(gradient).all()


def test_log1mexp_near_zero_and_far_from_it() -> None:
    x = torch.tensor([-1e-12, -1e-3, -0.7, -30.0], dtype=torch.float64)
    with decimal.localcontext(prec=60):
        wanted = torch.tensor([float((1 - Decimal(float(v)).exp()).ln()) for v in x], dtype=torch.float64)
    torch.testing.assert_close(log1mexp(x), wanted, rtol=1e-12, atol=0)
    assert log1mexp(torch.tensor([0.0])).item() == -math.inf


def test_chunks_change_neither_value_nor_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(13, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    hidden = torch.randn(10, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(13, (10,), generator=generator)
    _, ids, logprobs = case(10, 13, 4, seed=1)
    results = []
    for elements in (losses.CHUNK_ELEMENTS, 3 * 13):
        monkeypatch.setattr(losses, "CHUNK_ELEMENTS", elements)
        sums = completion_loss(
            hidden, labels, torch.linspace(0.5, 1.5, 10), torch.ones(10), ids, logprobs,
            head=lambda x: x @ weight.T, vocabulary=13, kd_weight=0.9, divergence="forward_kl", tail="bucket",
        )  # fmt: skip
        results.append((sums.total.double(), *torch.autograd.grad(sums.total, (hidden, weight))))
    for whole, chunked in zip(*results, strict=True):
        torch.testing.assert_close(whole, chunked, rtol=1e-6, atol=1e-6)


def test_the_loss_mixes_ce_and_kd_by_lambda() -> None:
    logits, ids, logprobs = case(5, 7, 3, seed=9)
    labels = torch.tensor([0, 1, 2, 3, 4])
    sums = completion_loss(
        logits, labels, torch.ones(5, dtype=torch.float64), torch.tensor([1.0, 0, 1, 0, 1]), ids, logprobs,
        head=lambda x: x, vocabulary=7, kd_weight=0.9, divergence="forward_kl", tail="bucket",
    )  # fmt: skip
    ce = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    kd = sparse_divergence(logits, ids, logprobs, divergence="forward_kl", tail="bucket")
    assert sums.total.item() == pytest.approx((0.1 * ce[::2].sum() + 0.9 * kd.sum()).item(), rel=1e-9)


def test_shapes_that_disagree_are_an_error() -> None:
    with pytest.raises(ShapeError, match="must share N"):
        sparse_divergence(
            torch.zeros(2, 4),
            torch.zeros(2, 2, dtype=torch.long),
            torch.zeros(2, 3),
            divergence="forward_kl",
            tail="drop",
        )
