"""Divergences from a teacher, against full distributions."""

from __future__ import annotations

import pytest
import torch

from tunesmith.losses import distill
from tunesmith.losses.tokens import Head


@pytest.fixture
def scene():
    torch.manual_seed(0)
    student_SD = torch.randn(21, 4, dtype=torch.float64, requires_grad=True)
    weight_VD = torch.randn(11, 4, dtype=torch.float64, requires_grad=True)
    teacher_SE = torch.randn(21, 6, dtype=torch.float64)
    return student_SD, weight_VD, teacher_SE, torch.randn(11, 6, dtype=torch.float64)


def plain(scene, beta: float, temperature: float) -> torch.Tensor:
    student_SD, weight_VD, teacher_SE, other_VE = scene
    p = torch.softmax(teacher_SE @ other_VE.T / temperature, -1)
    q = torch.softmax(student_SD @ weight_VD.T / temperature, -1)
    kl = lambda a, b: (a * (a / b).log()).sum(-1)
    if beta in (0, 1):
        return kl(q, p) if beta else kl(p, q)
    mixed = beta * p + (1 - beta) * q
    return beta * kl(p, mixed) + (1 - beta) * kl(q, mixed)


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_divergence_and_gradients_are_those_of_full_distributions(
    scene, beta, temperature, monkeypatch
):
    monkeypatch.setattr(distill, "chunk_rows", lambda weight: 16)
    student_SD, weight_VD, teacher_SE, other_VE = scene
    found_S = distill.divergence(
        student_SD, Head(weight_VD), teacher_SE, Head(other_VE), beta=beta, temperature=temperature
    )
    wanted_S = plain(scene, beta, temperature)
    assert torch.allclose(found_S, wanted_S)
    found = torch.autograd.grad(found_S.sum(), [student_SD, weight_VD])
    wanted = torch.autograd.grad(wanted_S.sum(), [student_SD, weight_VD])
    assert all(torch.allclose(a, b) for a, b in zip(found, wanted, strict=True))


def test_a_student_that_is_its_teacher_has_nothing_to_learn(scene):
    student_SD, weight_VD, *_ = scene
    head = Head(weight_VD)
    found_S = distill.divergence(student_SD, head, student_SD.detach(), head, beta=0.5)
    assert found_S.abs().max() < 1e-12
