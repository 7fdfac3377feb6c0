"""RMSNorm, rotary embedding and SwiGLU with hand-written gradients: few passes, few saved tensors.

The arithmetic is that of transformers' Llama-like families; float64 stays float64 throughout,
half precision is normalised in float32 as there. The `…_forward` and `…_backward` functions are
plain tensor code, so that `kernels: compiled` can hand them to torch.compile.

Legend: `N` or `T` tokens, `D` width, `H` heads, `E` width of a head, `F` width of the MLP.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Elementwise(NamedTuple):
    """The element-wise functions in use: eager, or compiled."""

    norm_forward: Any
    norm_backward: Any
    rotate_forward: Any
    rotate_backward: Any
    gate_forward: Any
    gate_backward: Any


# ---------------------------------------------------------------- RMSNorm (arXiv:1910.07467)


def norm_forward(x_ND: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """w · x / √(mean x² + eps); also returns 1/√…, shape (N, 1)."""
    wide_ND = x_ND.to(torch.promote_types(x_ND.dtype, torch.float32))
    norm_N1 = torch.linalg.vector_norm(wide_ND, dim=-1, keepdim=True)
    rate_N1 = torch.rsqrt(norm_N1 * norm_N1 / x_ND.shape[-1] + eps)
    return (wide_ND * rate_N1).to(x_ND.dtype) * weight_D, rate_N1


def norm_backward(grad_ND: Tensor, x_ND: Tensor, weight_D: Tensor, rate_N1: Tensor) -> Tensor:
    """Gradient of the input: r·(g − x̂ · mean(g·x̂)), g = w·dy, x̂ = r·x."""
    g_ND = (grad_ND * weight_D).to(rate_N1.dtype)
    wide_ND = x_ND.to(rate_N1.dtype)
    mean_N1 = (g_ND * wide_ND).sum(-1, keepdim=True) * (rate_N1**3 / x_ND.shape[-1])
    return torch.addcmul(g_ND * rate_N1, wide_ND, mean_N1, value=-1).to(x_ND.dtype)


class RmsNorm(torch.autograd.Function):
    """(x, weight, eps, functions) → w · x / √(mean x² + eps) over the last dimension."""

    @staticmethod
    def forward(ctx: Any, x, weight_D, eps, functions: Elementwise):
        x_ND = x.reshape(-1, x.shape[-1])
        y_ND, rate_N1 = functions.norm_forward(x_ND, weight_D, eps)
        ctx.save_for_backward(x_ND, weight_D, rate_N1)
        ctx.functions = functions
        return y_ND.view(x.shape)

    @staticmethod
    def backward(ctx: Any, grad):
        x_ND, weight_D, rate_N1 = ctx.saved_tensors
        grad_ND = grad.reshape(x_ND.shape)
        grad_x = grad_w = None
        if ctx.needs_input_grad[0]:
            grad_x = ctx.functions.norm_backward(grad_ND, x_ND, weight_D, rate_N1)
            grad_x = grad_x.view(grad.shape)
        if ctx.needs_input_grad[1]:
            normal_ND = (x_ND.to(rate_N1.dtype) * rate_N1).to(x_ND.dtype)
            grad_w = (grad_ND * normal_ND).sum(0).to(weight_D.dtype)
        return grad_x, grad_w, None, None


# ---------------------------------------------------------------- rotary embedding (2104.09864)


def rotate_forward(x_THE: Tensor, weight_E: Tensor | None, eps: float, cos_TE, sin_TE):
    """Norm over each head (if it has a weight), then rotation; also returns the norm's rate."""
    rate_TH1 = None
    if weight_E is not None:
        x_THE, rate_TH1 = norm_forward(x_THE, weight_E, eps)
    return _turn(x_THE, cos_TE, sin_TE, 1.0), rate_TH1


def rotate_backward(grad_THE, x_THE, weight_E, rate_TH1, cos_TE, sin_TE):
    """Gradients of the input and, before the weight's sum, of the normalised heads."""
    back_THE = _turn(grad_THE, cos_TE, sin_TE, -1.0)
    if weight_E is None:
        return back_THE, back_THE
    return norm_backward(back_THE, x_THE, weight_E, rate_TH1), back_THE


def _turn(x_THE: Tensor, cos_TE: Tensor, sin_TE: Tensor, sign: float) -> Tensor:
    """(x₁, x₂) → (x₁·cos − x₂·sin, x₂·cos + x₁·sin); `sign` -1 turns back."""
    half = x_THE.shape[-1] // 2
    x1, x2 = x_THE[..., :half], x_THE[..., half:]
    cos, sin = cos_TE[:, None, :half], sin_TE[:, None, :half]
    if torch.compiler.is_compiling():
        return torch.cat([x1 * cos - sign * x2 * sin, x2 * cos + sign * x1 * sin], dim=-1)
    y_THE = torch.empty(x_THE.shape, dtype=x_THE.dtype, device=x_THE.device)
    y1, y2 = y_THE[..., :half], y_THE[..., half:]
    torch.mul(x1, cos, out=y1)
    y1.addcmul_(x2, sin, value=-sign)
    torch.mul(x2, cos, out=y2)
    y2.addcmul_(x1, sin, value=sign)
    return y_THE


class Rotate(torch.autograd.Function):
    """(x_THE, norm weight or None, eps, cos_TE, sin_TE, functions) → rotated heads."""

    @staticmethod
    def forward(ctx: Any, x_THE, weight_E, eps, cos_TE, sin_TE, functions: Elementwise):
        y_THE, rate_TH1 = functions.rotate_forward(x_THE, weight_E, eps, cos_TE, sin_TE)
        normed = weight_E is not None
        ctx.save_for_backward(x_THE if normed else None, weight_E, rate_TH1, cos_TE, sin_TE)
        ctx.functions = functions
        return y_THE

    @staticmethod
    def backward(ctx: Any, grad_THE):
        x_THE, weight_E, rate_TH1, cos_TE, sin_TE = ctx.saved_tensors
        grad_x, back_THE = ctx.functions.rotate_backward(
            grad_THE, x_THE, weight_E, rate_TH1, cos_TE, sin_TE
        )
        grad_w = None
        if ctx.needs_input_grad[1]:
            normal_THE = (x_THE.to(rate_TH1.dtype) * rate_TH1).to(x_THE.dtype)
            grad_w = (back_THE * normal_THE).sum((0, 1)).to(weight_E.dtype)
        return grad_x, grad_w, None, None, None, None


# ---------------------------------------------------------------- SwiGLU (arXiv:2002.05202)


def gate_forward(gate_NF: Tensor, up_NF: Tensor) -> Tensor:
    """silu(gate) · up."""
    if torch.compiler.is_compiling():
        return F.silu(gate_NF) * up_NF
    return F.silu(gate_NF).mul_(up_NF)


def gate_backward(grad_NF: Tensor, gate_NF: Tensor, up_NF: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of gate and up."""
    grad_up_NF = gate_forward(gate_NF, grad_NF)
    return torch.ops.aten.silu_backward(grad_NF * up_NF, gate_NF), grad_up_NF


class Gate(torch.autograd.Function):
    """(gate, up, functions) → silu(gate) · up."""

    @staticmethod
    def forward(ctx: Any, gate, up, functions: Elementwise):
        ctx.save_for_backward(gate, up)
        ctx.functions = functions
        return functions.gate_forward(gate, up)

    @staticmethod
    def backward(ctx: Any, grad):
        return *ctx.functions.gate_backward(grad, *ctx.saved_tensors), None


EAGER = Elementwise(
    norm_forward, norm_backward, rotate_forward, rotate_backward, gate_forward, gate_backward
)
