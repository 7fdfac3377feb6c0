"""Divergence of a student's next-token distribution from a teacher's, in chunks.

Legend: `S` supervised positions, `V` vocabulary, `D` and `E` widths of student and teacher, `C`
rows of one chunk.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tunesmith.losses.tokens import Head, chunk_rows, differentiable_logits


def divergence(
    student_SD: Tensor,
    head: Head,
    teacher_SE: Tensor,
    teacher_head: Head,
    *,
    beta: float,
    temperature: float = 1.0,
) -> Tensor:
    """Generalised Jensen–Shannon divergence at each position (GKD, arXiv:2306.13649, eq. 1).

    With M = β·teacher + (1 − β)·student it is β·KL(teacher ‖ M) + (1 − β)·KL(student ‖ M). Its ends
    are taken as the two KLs that it becomes there up to scale: β = 0 is KL(teacher ‖ student), the
    forward one that covers every mode, β = 1 is KL(student ‖ teacher), which seeks one.

    Logits of both models are made in chunks and again in the backward pass, never kept.

    Args:
        student_SD: Hidden states that predict the targets, with gradient.
        head: The student's head.
        teacher_SE: The teacher's hidden states at the same positions.
        teacher_head: The teacher's head, over the same vocabulary.
        beta: 0 to 1.
        temperature: Divides the logits of both.

    Returns:
        Divergences in nats, shape (S,).
    """
    rows = max(16, chunk_rows(head.weight_VD) // 2)  # two distributions are at hand at once
    parts = [
        checkpoint(
            _divergence,
            own_CD,
            head,
            other_CE,
            teacher_head,
            beta,
            temperature,
            use_reentrant=False,
        )
        for own_CD, other_CE in zip(student_SD.split(rows), teacher_SE.split(rows), strict=True)
    ]
    return torch.cat(parts) if parts else student_SD.new_zeros(0)


def _divergence(
    own_CD: Tensor,
    head: Head,
    other_CE: Tensor,
    teacher_head: Head,
    beta: float,
    temperature: float,
) -> Tensor:
    student_CV = torch.log_softmax(differentiable_logits(own_CD, head) / temperature, -1)
    with torch.no_grad():
        other_CV = differentiable_logits(other_CE, teacher_head) / temperature
        teacher_CV = torch.log_softmax(other_CV, -1).to(student_CV.dtype)
    if beta == 0:
        return _kl(teacher_CV, student_CV)
    if beta == 1:
        return _kl(student_CV, teacher_CV)
    mixed_CV = torch.logaddexp(student_CV + math.log1p(-beta), teacher_CV + math.log(beta))
    return beta * _kl(teacher_CV, mixed_CV) + (1 - beta) * _kl(student_CV, mixed_CV)


def _kl(p_CV: Tensor, q_CV: Tensor) -> Tensor:
    """KL(p ‖ q) of log-probabilities, shape (C,)."""
    return (p_CV.exp() * (p_CV - q_CV)).sum(-1)
