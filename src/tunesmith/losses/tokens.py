"""Log-probabilities of targets from hidden states, in chunks: full logits are never kept.

Legend: `S` supervised positions, `V` vocabulary, `D` model width, `C` rows of one chunk.

    z_sv = scale · (h_s · W_v + b_v), soft-capped where the family does so
    log p_s = z_st − log Σ_v exp z_sv                     t the target of s
    ∂ log p_s / ∂ z_sv = [v = t] − p_sv

The gradient with respect to the hidden states is formed while a chunk's logits are at hand, for an
upstream gradient of 1 per position. log p_s depends on h_s alone, so the backward pass is one
product per row and exact for any upstream gradient: logits are computed once. (Liger Kernel,
arXiv:2410.10989, section 3.3, does the same for a mean loss; this one serves weighted tokens.)

The gradient of a trained head mixes positions, so it needs the upstream gradient. A caller whose
loss is Σ c·w_s·log p_s with any constant c says the w_s beforehand; it is then formed in the same
pass, and scaled by c in the backward pass. Any other upstream gradient recomputes the logits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tunesmith.losses.products import linear

CHUNK_BYTES = {"cpu": 16 * 2**20, "cuda": 256 * 2**20}
"""Size of a chunk of float32 logits: it should stay in the last cache of a CPU, and below the size
from which glibc returns freed memory to the system at once."""


class Head(NamedTuple):
    """The output head: logits are `softcap(scale · (h Wᵀ + b))`."""

    weight_VD: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None


class _Options(NamedTuple):
    chunk: int
    scale: float
    softcap: float | None
    weights_S: Tensor | None


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
    return head_logprobs(hidden_SD, Head(weight_VD, bias_V), targets_S, chunk=chunk)


def head_logprobs(
    hidden_SD: Tensor,
    head: Head,
    targets_S: Tensor,
    *,
    weights_S: Tensor | None = None,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """As `chunked_logprobs`, for any head.

    Args:
        hidden_SD: Hidden states, shape (S, D).
        head: The output head.
        targets_S: int64 token ids, shape (S,).
        weights_S: Likely upstream gradient up to a constant factor: a trained head then costs one
            product less. A guess that turns out wrong costs two more, never exactness.
        chunk: Rows at a time.
    """
    chunk = chunk or chunk_rows(head.weight_VD)
    options = _Options(chunk, head.scale, head.softcap, weights_S)
    return _HeadLogprobs.apply(hidden_SD, head.weight_VD, head.bias_V, targets_S, options)


def logits(hidden_SD: Tensor, head: Head) -> Tensor:
    """All logits of a few positions in float32 or wider, without autograd; shape (S, V)."""
    return _logits(hidden_SD, head.weight_VD.detach(), head.bias_V, head)


def differentiable_logits(hidden_CD: Tensor, head: Head) -> Tensor:
    """All logits of a chunk in float32 or wider with autograd; shape (C, V). Call it in chunks."""
    weight_VD = head.weight_VD.to(hidden_CD.dtype)
    logits_CV = torch.nn.functional.linear(hidden_CD, weight_VD, head.bias_V)
    logits_CV = logits_CV.to(torch.promote_types(logits_CV.dtype, torch.float32)) * head.scale
    if head.softcap is not None:
        logits_CV = head.softcap * torch.tanh(logits_CV / head.softcap)
    return logits_CV


def chunk_rows(weight_VD: Tensor) -> int:
    """Rows whose float32 logits fit `CHUNK_BYTES`: a multiple of 16."""
    size = CHUNK_BYTES.get(weight_VD.device.type, CHUNK_BYTES["cuda"])
    return max(16, size // (4 * weight_VD.shape[0]) // 16 * 16)


class _HeadLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_SD, weight_VD, bias_V, targets_S, options):
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        trained = needs_weight or needs_bias
        guess_S = options.weights_S if trained else None
        cast_VD = weight_VD.detach().to(hidden_SD.dtype)
        wide = torch.promote_types(hidden_SD.dtype, torch.float32)
        logprobs_S = hidden_SD.new_empty(len(hidden_SD), dtype=wide)
        correct_S = torch.empty_like(targets_S, dtype=torch.bool)
        slope_SD = torch.empty_like(hidden_SD) if needs_hidden else None
        sums = None if guess_S is None else _zeros(weight_VD, bias_V, wide)
        for start in range(0, len(hidden_SD), options.chunk):
            rows = slice(start, start + options.chunk)
            target_C1 = targets_S[rows, None]
            logits_CV = _logits(hidden_SD[rows], cast_VD, bias_V, options)
            logprobs_S[rows], correct_S[rows], p_CV = _softmax(logits_CV, target_C1, options)
            if slope_SD is None and sums is None:
                continue
            dz_CV = _slope(p_CV, logits_CV, target_C1, options)
            if slope_SD is not None:
                slope_SD[rows] = linear(dz_CV.to(cast_VD.dtype), cast_VD.t())
            if sums is not None and guess_S is not None:
                _add_outer(sums, dz_CV, hidden_SD[rows], guess_S[rows])
        ctx.options, ctx.sums = options, sums
        ctx.save_for_backward(slope_SD, *((hidden_SD, weight_VD, bias_V, targets_S) * trained))
        ctx.mark_non_differentiable(correct_S)
        return logprobs_S, correct_S

    @staticmethod
    def backward(ctx: Any, grad_S, _):
        slope_SD, *rest = ctx.saved_tensors
        grad_hidden = grad_weight = grad_bias = None
        if slope_SD is not None:
            # The slope is that of −log p (see `_slope`), hence the sign.
            grad_hidden = slope_SD * grad_S[:, None].neg().to(slope_SD.dtype)
        if rest:
            factor = None if ctx.sums is None else _factor(grad_S, ctx.options.weights_S)
            if factor is None or ctx.sums is None:
                grads: Any = _recomputed(ctx.options, grad_S, *rest)
            else:
                grads = [None if total is None else total.mul_(-factor) for total in ctx.sums]
            grad_weight = grads[0].to(rest[1].dtype)
            grad_bias = None if grads[1] is None else grads[1].to(rest[2].dtype)
            ctx.sums = None
        return grad_hidden, grad_weight, grad_bias, None, None


def _logits(hidden_CD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, options) -> Tensor:
    """Logits of a chunk in float32 or wider, shape (C, V)."""
    wide = torch.promote_types(hidden_CD.dtype, torch.float32)
    logits_CV = linear(hidden_CD, weight_VD).to(wide)
    if bias_V is not None:
        logits_CV += bias_V.detach()
    if options.scale != 1.0:
        logits_CV *= options.scale
    if options.softcap is not None:
        logits_CV.div_(options.softcap).tanh_().mul_(options.softcap)
    return logits_CV


def _softmax(logits_CV: Tensor, target_C1: Tensor, options) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probability of the target, whether it is the likeliest, and all probabilities.

    log p comes from the logits and their log-sum-exp, so it is exact where p underflows. The
    probabilities overwrite the logits, unless a soft cap needs these once more.
    """
    highest_C1 = logits_CV.amax(dim=-1, keepdim=True)
    picked_C1 = logits_CV.gather(1, target_C1)
    if options.softcap is None:
        p_CV = torch.softmax(logits_CV, dim=-1, out=logits_CV)
    else:
        p_CV = torch.softmax(logits_CV, dim=-1)
    # The likeliest token has p = exp(0) / Σ exp(z − highest): its logarithm is the missing sum.
    log_sum_C1 = highest_C1 - p_CV.amax(dim=-1, keepdim=True).log_()
    return (picked_C1 - log_sum_C1)[:, 0], (picked_C1 >= highest_C1)[:, 0], p_CV


def _slope(p_CV: Tensor, logits_CV: Tensor, target_C1: Tensor, options) -> Tensor:
    """∂ (−log p) / ∂ (h Wᵀ + b) = p_v − [v = t], through soft cap and scale. Overwrites `p_CV`."""
    p_CV.scatter_add_(1, target_C1, p_CV.new_full(target_C1.shape, -1.0))
    if options.softcap is not None:
        p_CV *= 1 - (logits_CV / options.softcap) ** 2
    return p_CV.mul_(options.scale) if options.scale != 1.0 else p_CV


def _zeros(weight_VD: Tensor, bias_V: Tensor | None, dtype: torch.dtype):
    """Where the gradients of the head are summed."""
    zeros = torch.zeros_like(weight_VD, dtype=dtype)
    return zeros, None if bias_V is None else torch.zeros_like(bias_V, dtype=dtype)


def _add_outer(sums, dz_CV: Tensor, hidden_CD: Tensor, grad_C: Tensor) -> None:
    """sums += Σ grad_c · dz_c ⊗ h_c. Overwrites `dz_CV`."""
    weight_VD, bias_V = sums
    dz_CV *= grad_C[:, None]
    if bias_V is not None:
        bias_V += dz_CV.sum(0)
    if hidden_CD.dtype == dz_CV.dtype:
        weight_VD.addmm_(dz_CV.t(), hidden_CD)
    else:
        weight_VD += torch.mm(dz_CV.to(hidden_CD.dtype).t(), hidden_CD)


def _factor(grad_S: Tensor, weights_S: Tensor) -> Tensor | None:
    """c if grad_S = c · weights_S to rounding, else None."""
    weights_S = weights_S.to(grad_S.dtype)
    if not len(grad_S):
        return grad_S.new_zeros(())
    factor = torch.dot(grad_S, weights_S) / torch.dot(weights_S, weights_S)
    off = (grad_S - factor * weights_S).abs().max()
    close = off <= 4 * torch.finfo(grad_S.dtype).eps * (factor * weights_S).abs().max()
    return factor if bool(close) else None


def _recomputed(options, grad_S, hidden_SD, weight_VD, bias_V, targets_S):
    """Gradients of a trained head for any upstream gradient: logits again, chunk by chunk."""
    cast_VD = weight_VD.detach().to(hidden_SD.dtype)
    sums = _zeros(weight_VD, bias_V, grad_S.dtype)
    for start in range(0, len(hidden_SD), options.chunk):
        rows = slice(start, start + options.chunk)
        target_C1 = targets_S[rows, None]
        logits_CV = _logits(hidden_SD[rows], cast_VD, bias_V, options)
        p_CV = _softmax(logits_CV, target_C1, options)[2]
        dz_CV = _slope(p_CV, logits_CV, target_C1, options)
        _add_outer(sums, dz_CV, hidden_SD[rows], -grad_S[rows])
    return sums
