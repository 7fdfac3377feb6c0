"""Log-probabilities of targets from hidden states, in chunks: full logits are never kept.

Legend: `S` supervised positions, `V` vocabulary, `D` model width, `C` rows of one chunk.

    z_sv = scale · (h_s · W_v + b_v), soft-capped where the family does so
    log p_s = z_st − log Σ_v exp z_sv                     t the target of s
    ∂ log p_s / ∂ z_sv = [v = t] − p_sv

The gradient with respect to the hidden states is formed while a chunk's logits are at hand, for an
upstream gradient of 1 per position. log p_s depends on h_s alone, so the backward pass is one
product per row and exact for any upstream gradient: logits are computed once. (Liger Kernel,
arXiv:2410.10989, section 3.3, does the same for a mean loss; this one serves weighted tokens.)
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

CHUNK_BYTES = 64 * 2**20
"""A chunk of float32 logits is at most this large."""


class Head(NamedTuple):
    """The output head: logits are `softcap(scale · (h Wᵀ + b))`."""

    weight_VD: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None


def chunked_logprobs(
    hidden_SD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets_S: Tensor,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target, and whether it is the likeliest token.

    Args:
        hidden_SD: Hidden states that predict the targets, shape (S, D).
        weight_VD: Output head, shape (V, D); it gets a gradient only if it requires one.
        bias_V: Bias of the head, shape (V,), or None.
        targets_S: int64 token ids, shape (S,).
        chunk: Rows at a time; default: as many as fit `CHUNK_BYTES` of float32 logits.

    Returns:
        logprobs_S in float32 (float64 for float64 input) and correct_S, bool.
    """
    return head_logprobs(hidden_SD, Head(weight_VD, bias_V), targets_S, chunk)


def head_logprobs(
    hidden_SD: Tensor, head: Head, targets_S: Tensor, chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """As `chunked_logprobs`, for heads that scale or soft-cap their logits."""
    if chunk is None:
        chunk = max(1, CHUNK_BYTES // (4 * head.weight_VD.shape[0]))
    return _HeadLogprobs.apply(
        hidden_SD, head.weight_VD, head.bias_V, targets_S, (chunk, head.scale, head.softcap)
    )


class _HeadLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_SD, weight_VD, bias_V, targets_S, options):
        chunk, scale, softcap = options
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        wide = torch.promote_types(hidden_SD.dtype, torch.float32)
        cast_VD = weight_VD.detach().to(hidden_SD.dtype)
        logprobs_S = hidden_SD.new_empty(len(hidden_SD), dtype=wide)
        correct_S = torch.empty_like(targets_S, dtype=torch.bool)
        slope_SD = torch.empty_like(hidden_SD) if needs_hidden else None
        for start in range(0, len(hidden_SD), chunk):
            rows = slice(start, start + chunk)
            target_C1 = targets_S[rows, None]
            logits_CV = _logits(hidden_SD[rows], cast_VD, bias_V, scale, softcap, wide)
            logprobs_CV = torch.log_softmax(logits_CV, dim=-1)
            picked_C1 = logprobs_CV.gather(1, target_C1)
            logprobs_S[rows] = picked_C1[:, 0]
            correct_S[rows] = logprobs_CV.argmax(-1) == target_C1[:, 0]
            if slope_SD is not None:
                dz_CV = _slope(logprobs_CV, logits_CV, target_C1, scale, softcap)
                torch.mm(dz_CV.to(cast_VD.dtype), cast_VD, out=slope_SD[rows])
        ctx.options = options
        ctx.save_for_backward(
            slope_SD,
            *((hidden_SD, weight_VD, bias_V, targets_S) if needs_weight or needs_bias else ()),
        )
        ctx.mark_non_differentiable(correct_S)
        return logprobs_S, correct_S

    @staticmethod
    def backward(ctx: Any, grad_S, _):
        slope_SD, *rest = ctx.saved_tensors
        grad_hidden = None
        if slope_SD is not None:
            grad_hidden = slope_SD * grad_S[:, None].to(slope_SD.dtype)
        grad_weight, grad_bias = _head_gradients(ctx, grad_S, *rest) if rest else (None, None)
        return grad_hidden, grad_weight, grad_bias, None, None


def _logits(hidden_CD, weight_VD, bias_V, scale, softcap, wide) -> Tensor:
    logits_CV = torch.mm(hidden_CD, weight_VD.t()).to(wide)
    if bias_V is not None:
        logits_CV += bias_V.detach()
    if scale != 1.0:
        logits_CV *= scale
    if softcap is not None:
        logits_CV.div_(softcap).tanh_().mul_(softcap)
    return logits_CV


def _slope(logprobs_CV, logits_CV, target_C1, scale, softcap) -> Tensor:
    """∂ log p / ∂ (h Wᵀ + b): `[v = t] − p_v`, through soft cap and scale. Overwrites logprobs."""
    dz_CV = logprobs_CV.exp_().neg_()
    dz_CV.scatter_add_(1, target_C1, torch.ones_like(target_C1, dtype=dz_CV.dtype))
    if softcap is not None:
        dz_CV *= 1 - (logits_CV / softcap) ** 2
    return dz_CV.mul_(scale) if scale != 1.0 else dz_CV


def _head_gradients(ctx: Any, grad_S, hidden_SD, weight_VD, bias_V, targets_S):
    """Gradients of a trained head: the logits of each chunk are computed again, then discarded."""
    chunk, scale, softcap = ctx.options
    wide = grad_S.dtype
    cast_VD = weight_VD.detach().to(hidden_SD.dtype)
    grad_VD = torch.zeros_like(weight_VD, dtype=wide)
    grad_V = None if bias_V is None else torch.zeros_like(bias_V, dtype=wide)
    for start in range(0, len(hidden_SD), chunk):
        rows = slice(start, start + chunk)
        logits_CV = _logits(hidden_SD[rows], cast_VD, bias_V, scale, softcap, wide)
        logprobs_CV = torch.log_softmax(logits_CV, dim=-1)
        dz_CV = _slope(logprobs_CV, logits_CV, targets_S[rows, None], scale, softcap)
        dz_CV *= grad_S[rows, None]
        if hidden_SD.dtype == wide:
            grad_VD.addmm_(dz_CV.t(), hidden_SD[rows])
        else:
            grad_VD += torch.mm(dz_CV.to(hidden_SD.dtype).t(), hidden_SD[rows])
        if grad_V is not None:
            grad_V += dz_CV.sum(0)
    return grad_VD.to(weight_VD.dtype), None if grad_V is None else grad_V.to(bias_V.dtype)
