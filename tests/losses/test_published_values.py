"""Values and formulas that others publish in their tests and code, reproduced with the whole vocabulary as entries."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from eyas.losses import Head, SparseTeacher, completion_loss
from eyas.recipe import LossSpec

# torchtune bd2a0fc, tests/torchtune/modules/loss/test_kd_losses.py: logits and expected values (bfloat16, 1e-2).
TORCHTUNE_STUDENT = torch.tensor([
    [1.1250, -0.4102, -0.0879, -2.5000], [0.2676, 0.3535, 0.8711, -1.4688], [-0.1084, 1.6641, 0.0084, 0.1196],
    [0.5000, -0.6406, -0.2236, -1.5938], [-1.5312, -1.9219, 0.0000, -0.5039], [-1.5391, 1.5312, 0.5820, 0.2695],
    [-0.3887, 1.2188, 0.0000, 0.6055], [0.5000, 1.3828, 0.1309, -1.0312],
])  # fmt: skip
TORCHTUNE_TEACHER = torch.tensor([
    [-0.0381, -1.2578, -1.2031, 0.0947], [-0.7852, 0.4492, 1.5547, 0.0972], [0.8203, 0.0012, 0.7656, 0.3477],
    [-1.5781, 0.4297, 0.5977, 0.3926], [1.5156, 0.1641, 2.0781, -0.7734], [-0.5898, 0.4453, -0.7969, 0.6328],
    [0.6289, -0.8359, 0.9258, 0.2109], [0.0006, 0.5195, 3.2344, -1.5781],
])  # fmt: skip


def divergences(student_NV: Tensor, teacher_NV: Tensor, *, loss: LossSpec, temperature: float = 1.0) -> Tensor:
    """D per token, with every id an entry; teacher and student softened."""
    logprobs_NV, ids_NV = (teacher_NV.double() / temperature).log_softmax(-1).sort(-1, descending=True)
    one = torch.ones(1)
    empty = torch.tensor([-torch.inf])
    return torch.stack([
        completion_loss(
            student_NV[n : n + 1].double(), torch.tensor([0]), one, one,
            SparseTeacher(ids_NV[n : n + 1], logprobs_NV[n : n + 1], empty, one),
            head=Head(torch.eye(student_NV.shape[1], dtype=torch.float64)), loss=loss, temperature=temperature,
        ).divergence
        for n in range(len(student_NV))
    ])  # fmt: skip


def test_torchtunes_expected_values() -> None:
    probabilities = TORCHTUNE_TEACHER.softmax(-1)
    entropy = -(probabilities * probabilities.log()).sum(-1).mean().item()
    forward = divergences(TORCHTUNE_STUDENT, TORCHTUNE_TEACHER, loss=LossSpec()).mean().item()
    reverse = divergences(TORCHTUNE_STUDENT, TORCHTUNE_TEACHER, loss=LossSpec(divergence="reverse_kl")).mean().item()
    # Its ForwardKLLoss is the cross-entropy, which is the KL and the teacher's entropy.
    assert forward + entropy == pytest.approx(1.7209, abs=1e-2)
    assert reverse == pytest.approx(0.6775, abs=1e-2)
    assert 0.5 * (forward + entropy) + 0.5 * reverse == pytest.approx(1.1992, abs=1e-2)


# TRL (Jul 2026), tests/experimental/test_distillation_trainer.py, TestGeneralizedJSDLossIsPinned: this seed and
# these shapes; beta 0 and 1 are its forward and reverse KL. It pins no numbers but its own reference, which is this.
def trl_reference(student: Tensor, teacher: Tensor, *, beta: float, temperature: float) -> Tensor:
    student_log, teacher_log = (torch.log_softmax(side / temperature, dim=-1) for side in (student, teacher))
    student_p, teacher_p = student_log.exp(), teacher_log.exp()
    if beta == 0.0:
        return (teacher_p * (teacher_log - student_log)).sum(-1)
    if beta == 1.0:
        return (student_p * (student_log - teacher_log)).sum(-1)
    mixture_log = ((1 - beta) * student_p + beta * teacher_p).log()
    return (beta * teacher_p * (teacher_log - mixture_log) + (1 - beta) * student_p * (student_log - mixture_log)).sum(
        -1
    )


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("beta", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("use_labels", [False, True])
def test_trls_pinned_generalised_jsd(beta: float, temperature: float, use_labels: bool) -> None:
    generator = torch.Generator().manual_seed(42)
    student = torch.randn(2, 3, 5, generator=generator).flatten(0, 1)
    teacher = torch.randn(2, 3, 5, generator=generator).flatten(0, 1)
    labels = torch.tensor([[-100, 1, 2], [-100, -100, 3]]).flatten()
    kept = labels != -100 if use_labels else torch.ones(6, dtype=torch.bool)
    loss = (
        LossSpec(divergence="forward_kl" if beta == 0 else "reverse_kl")
        if beta in (0.0, 1.0)
        else LossSpec(divergence="jsd", beta=beta)
    )
    found = divergences(student[kept], teacher[kept], loss=loss, temperature=temperature)
    wanted = trl_reference(student[kept].double(), teacher[kept].double(), beta=beta, temperature=temperature)
    torch.testing.assert_close(found, temperature**2 * wanted)  # TRL has no T^2


def test_trls_jsd_edge_cases() -> None:
    # TestGeneralizedJSDLoss: student (.1, .9), teacher (.9, .1): both KLs are .8 log 9. Uniform logits: 0. Symmetric
    # in its arguments at beta 0.5 and not at 0.1.
    student, teacher = (torch.tensor([p]).log() for p in ([0.1, 0.9], [0.9, 0.1]))
    for divergence in ("forward_kl", "reverse_kl"):
        found = divergences(student, teacher, loss=LossSpec(divergence=divergence))
        assert found.item() == pytest.approx(0.8 * torch.tensor(9.0).log().item(), abs=1e-6)
    assert divergences(torch.ones(1, 5), torch.ones(1, 5), loss=LossSpec(divergence="jsd")).item() == pytest.approx(0)
    one, other = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    for beta, symmetric in ((0.1, False), (0.5, True)):
        loss = LossSpec(divergence="jsd", beta=beta)
        there, back = divergences(one, other, loss=loss).sum(), divergences(other, one, loss=loss).sum()
        assert (abs(there - back).item() < 1e-9) is symmetric


def distillm(name: str, p: Tensor, q: Tensor) -> Tensor:
    """DistiLLM's `losses.py` and the AKL and ABKD code that grew out of it, without their masks and means."""
    if name == "skew_forward":
        return (p * (p / (0.1 * p + 0.9 * q)).log()).sum(-1)  # its loss leaves out the constant sum p log p
    if name == "skew_reverse":
        return -(q * (0.9 * p + 0.1 * q).log() - q * q.log()).sum(-1)
    if name == "tvd":
        return (0.5 * (p - q).abs()).sum(-1)
    if name == "alpha_beta":
        a, b = 0.2, 0.7
        inner = p**a * q**b - a / (a + b) * p ** (a + b) - b / (a + b) * q ** (a + b)
        return -inner.sum(-1) / (a * b)
    sorted_p, order = p.sort(dim=-1, descending=True)
    tail = sorted_p.cumsum(-1) > 0.5
    tail[:, 0] = False
    errors = (sorted_p - q.gather(-1, order)).abs()
    head_error, tail_error = errors.masked_fill(tail, 0.0).sum(-1), errors.masked_fill(~tail, 0.0).sum(-1)
    forward, reverse = (p * (p / q).log()).sum(-1), (q * (q / p).log()).sum(-1)
    return (head_error * forward + tail_error * reverse) / (head_error + tail_error)


@pytest.mark.parametrize("name", ["skew_forward", "skew_reverse", "adaptive_kl", "tvd", "alpha_beta"])
def test_the_formulas_of_distillm_akl_and_abkd(name: str) -> None:
    student, teacher = torch.randn(2, 16, 11, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2
    found = divergences(student, teacher, loss=LossSpec(divergence=name))
    torch.testing.assert_close(found, distillm(name, teacher.softmax(-1), student.softmax(-1)))
