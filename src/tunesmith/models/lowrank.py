"""A linear layer with a trained low-rank delta: W' = W + (α/r)·B·A (LoRA, arXiv:2106.09685).

The frozen weight gets no gradient. Without dropout the delta is added to the weight just before
each product (out·in·r multiplications, nothing beside the T·out·in of the product), so that no
pass over the activations is spent on it; x, x·Aᵀ and dY·B are all the backward pass needs.

Legend: `N` tokens, `I` input width, `O` output width, `R` rank.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D


class LowRankLinear(nn.Module):
    """Replaces a linear layer; keeps its parameter names and adds `lora_A`, `lora_B`.

    Args:
        base: `nn.Linear`, or GPT-2's `Conv1D`, whose weight is stored transposed.
        rank: r.
        scale: α/r, or α/√r for rank-stabilised LoRA.
        dropout: Probability of dropping an input of the delta in training.
        dora: Whether to learn the weight's column norms apart from its direction
            (DoRA, arXiv:2402.09353).
        dtype: Type of the trained parameters.
    """

    def __init__(
        self,
        base: nn.Module,
        *,
        rank: int,
        scale: float,
        dropout: float = 0.0,
        dora: bool = False,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        self.transposed = not isinstance(base, nn.Linear)
        self.weight, self.bias = base.weight, base.bias
        shape = base.weight.shape if not self.transposed else base.weight.shape[::-1]
        self.out_features, self.in_features = shape
        self.scale, self.dropout, self.enabled = scale, dropout, True
        like = {"device": base.weight.device, "dtype": dtype}
        A_RI = torch.empty(rank, self.in_features)  # drawn on the CPU: the same on every device
        nn.init.kaiming_uniform_(A_RI, a=5**0.5)
        self.lora_A = nn.Parameter(A_RI.to(**like))
        self.lora_B = nn.Parameter(torch.zeros(self.out_features, rank, **like))
        self.lora_magnitude = None
        if dora:
            norm_O = torch.linalg.vector_norm(self._weight_OI().detach().to(dtype), dim=1)
            self.lora_magnitude = nn.Parameter(norm_O)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.weight.dtype)  # autocast may hand over a wider residual stream
        if not self.enabled:
            return F.linear(x, self._weight_OI(), self.bias)
        if self.lora_magnitude is not None:
            return self._dora(x)
        A, B = self.lora_A.to(x.dtype), self.lora_B.to(x.dtype)
        if (self.dropout and self.training) or x.dtype in (torch.bfloat16, torch.float16):
            # Half precision would round the delta away inside the weight, so it stays beside it.
            dropped = F.dropout(x, self.dropout, self.training)
            base = F.linear(x, self._weight_OI(), self.bias)
            return base + F.linear(F.linear(dropped, A), B * self.scale)
        return _LowRank.apply(x, self._weight_OI(), self.bias, A, B, self.scale)

    def delta_OI(self) -> Tensor:
        """(α/r)·B·A in float32 (float64 for float64 weights), shape (O, I)."""
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        return (self.lora_B.to(wide) @ self.lora_A.to(wide)) * self.scale

    def merged_OI(self) -> Tensor:
        """The weight with its delta, in float32 or wider, shape (O, I)."""
        delta_OI = self.delta_OI()
        merged_OI = self._weight_OI().to(delta_OI.dtype) + delta_OI
        if self.lora_magnitude is None:
            return merged_OI
        norm_O = torch.linalg.vector_norm(merged_OI, dim=1)
        return merged_OI * (self.lora_magnitude.to(merged_OI.dtype) / norm_O)[:, None]

    def merged(self) -> nn.Module:
        """A plain layer of the original kind that computes the same."""
        weight_OI = self.merged_OI().to(self.weight.dtype)
        plain = _plain(self.transposed, self.in_features, self.out_features)
        stored = weight_OI.t().contiguous() if self.transposed else weight_OI
        plain.weight = nn.Parameter(stored.detach(), requires_grad=False)
        plain.bias = self.bias
        return plain

    def _weight_OI(self) -> Tensor:
        return self.weight.t() if self.transposed else self.weight

    def _dora(self, x: Tensor) -> Tensor:
        """m · (W + sBA) / ‖W + sBA‖, the norm held constant in the gradient (section 4.3)."""
        A, B = self.lora_A.to(x.dtype), self.lora_B.to(x.dtype)
        with torch.no_grad():
            norm_O = torch.linalg.vector_norm(
                self._weight_OI().to(A.dtype) + self.delta_OI(), dim=1
            )
        gain_O = (self.lora_magnitude / norm_O).to(x.dtype)
        base = F.linear(x, self._weight_OI())
        if self.dropout and self.training:
            # As in PEFT: the base term is not dropped, only rescaled by (m/‖·‖ − 1) and the delta.
            dropped = F.dropout(x, self.dropout)
            delta = F.linear(F.linear(dropped, A), B) * self.scale
            scaled = base + (gain_O - 1) * F.linear(dropped, self._weight_OI()) + gain_O * delta
        else:
            scaled = gain_O * (base + F.linear(F.linear(x, A), B) * self.scale)
        return scaled if self.bias is None else scaled + self.bias

    def extra_repr(self) -> str:
        return f"in={self.in_features}, out={self.out_features}, rank={len(self.lora_A)}"


def _plain(transposed: bool, inputs: int, outputs: int) -> nn.Module:
    """An empty layer to hold merged weights: nothing is drawn or allocated for it."""
    with torch.device("meta"):
        return Conv1D(outputs, inputs) if transposed else nn.Linear(inputs, outputs)


class _LowRank(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x, weight_OI, bias_O, A_RI, B_OR, scale):
        x_NI = x.reshape(-1, x.shape[-1])
        ctx.save_for_backward(x_NI, weight_OI, A_RI, B_OR)
        ctx.scale, ctx.has_bias = scale, bias_O is not None
        merged_OI = torch.addmm(weight_OI, B_OR, A_RI, alpha=scale)
        return F.linear(x, merged_OI, bias_O)

    @staticmethod
    def backward(ctx: Any, grad):
        x_NI, weight_OI, A_RI, B_OR = ctx.saved_tensors
        grad_NO = grad.reshape(-1, grad.shape[-1])
        grad_x = grad_A = grad_B = grad_W = grad_b = None
        if ctx.needs_input_grad[0]:
            merged_OI = torch.addmm(weight_OI, B_OR, A_RI, alpha=ctx.scale)
            grad_x = torch.mm(grad_NO, merged_OI).view(*grad.shape[:-1], -1)
        if ctx.needs_input_grad[1]:
            grad_W = torch.mm(grad_NO.t(), x_NI)
        if ctx.has_bias and ctx.needs_input_grad[2]:
            grad_b = grad_NO.sum(0)
        if ctx.needs_input_grad[3]:
            grad_A = torch.mm(torch.mm(grad_NO, B_OR).t(), x_NI).mul_(ctx.scale)
        if ctx.needs_input_grad[4]:
            grad_B = torch.mm(grad_NO.t(), torch.mm(x_NI, A_RI.t())).mul_(ctx.scale)
        return grad_x, grad_W, grad_b, grad_A, grad_B, None
