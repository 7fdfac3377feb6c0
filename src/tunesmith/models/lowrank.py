"""Linear layers, alone or several on one input, with trained low-rank deltas (LoRA).

    W' = W + s·B·A,  s = α/r                                                arXiv:2106.09685

Where weights are float32 or wider the delta is added to the weight just before a product (O·I·R
multiplications beside the N·O·I of the product), so no pass over the activations is spent on it.
In half precision the weight would round it away, and for few tokens (decoding) the sum would cost
more than the product: there it is a product of its own. With U = dY·B
and H = X·Aᵀ the gradients are dX = dY·W', dA = s·Uᵀ·X, dB = s·dYᵀ·H. Layers that share their input
(q, k, v; gate, up) share the thin products H and dA, and sum their dX in place.

Legend: `N` tokens, `I` input width, `O` output width, `R` rank; lists hold one entry a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from tunesmith.losses.products import add_linear, linear

HALF = (torch.bfloat16, torch.float16)
FEW = 64
"""For fewer tokens the delta stays beside the weight."""


class LowRankLinear(nn.Module):
    """Replaces a linear layer; keeps its parameter names and adds `lora_A`, `lora_B`.

    Args:
        base: `nn.Linear`, or GPT-2's `Conv1D`, whose weight is stored transposed.
        rank: r.
        scale: α/r, or α/√r for rank-stabilised LoRA.
        dropout: Probability of dropping an input of the delta in training.
        dora: Whether to learn the weight's row norms apart from its direction
            (DoRA, arXiv:2402.09353).
        dtype: Type of the trained parameters.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(
        self,
        base: Any,
        *,
        rank: int,
        scale: float,
        dropout: float = 0.0,
        dora: bool = False,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        self.training = base.training
        self.transposed = not isinstance(base, nn.Linear)
        self.weight, self.bias = base.weight, base.bias
        self.out_features, self.in_features = weight_of(self).shape
        self.scale, self.dropout, self.enabled = scale, dropout, True
        like = {"device": base.weight.device, "dtype": dtype}
        A_RI = torch.empty(rank, self.in_features)  # drawn on the CPU: the same on every device
        nn.init.kaiming_uniform_(A_RI, a=5**0.5)
        self.lora_A = nn.Parameter(A_RI.to(**like))
        self.lora_B = nn.Parameter(torch.zeros(self.out_features, rank, **like))
        self.lora_magnitude = None
        if dora:
            norm_O = torch.linalg.vector_norm(weight_of(self).detach().to(dtype), dim=1)
            self.lora_magnitude = nn.Parameter(norm_O)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.weight.dtype)  # autocast may hand over a wider residual stream
        if self.enabled and self.lora_magnitude is not None:
            return self._dora(x)
        if self.enabled and self.dropout and self.training:
            base = F.linear(x, weight_of(self), self.bias)
            return base + self._beside(F.dropout(x, self.dropout))
        return project(x, [self])[0]

    def is_simple(self) -> bool:
        """Whether `project` may compute this layer: no dropout at work and no DoRA."""
        special = self.lora_magnitude is not None or (self.dropout and self.training)
        return not (self.enabled and special)

    def delta_OI(self) -> Tensor:
        """s·B·A in float32 (float64 for float64 weights), shape (O, I)."""
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        return (self.lora_B.to(wide) @ self.lora_A.to(wide)) * self.scale

    def merged_OI(self) -> Tensor:
        """The weight with its delta, in float32 or wider, shape (O, I)."""
        delta_OI = self.delta_OI()
        merged_OI = weight_of(self).to(delta_OI.dtype) + delta_OI
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

    def _beside(self, x: Tensor) -> Tensor:
        A, B = self.lora_A.to(x.dtype), self.lora_B.to(x.dtype)
        return F.linear(F.linear(x, A), B) * self.scale

    def _dora(self, x: Tensor) -> Tensor:
        """m · (W + sBA) / ‖W + sBA‖, the norm held constant in the gradient (section 4.3)."""
        with torch.no_grad():
            wide = self.delta_OI()
            norm_O = torch.linalg.vector_norm(weight_of(self).to(wide.dtype) + wide, dim=1)
        gain_O = (self.lora_magnitude / norm_O).to(x.dtype)
        base = F.linear(x, weight_of(self))
        if self.dropout and self.training:
            # As in PEFT: what is rescaled, m/‖·‖ − 1 of the base and all of the delta, is dropped.
            x = F.dropout(x, self.dropout)
            rest = (gain_O - 1) * F.linear(x, weight_of(self))
            scaled = base + rest + gain_O * self._beside(x)
        else:
            scaled = gain_O * (base + self._beside(x))
        return scaled if self.bias is None else scaled + self.bias

    def extra_repr(self) -> str:
        return f"in={self.in_features}, out={self.out_features}, rank={len(self.lora_A)}"


def weight_of(layer: Any) -> Tensor:
    """A linear layer's weight as (O, I), however it is stored."""
    stored_transposed = isinstance(layer, Conv1D) or (
        isinstance(layer, LowRankLinear) and layer.transposed
    )
    return layer.weight.t() if stored_transposed else layer.weight


class Origin(NamedTuple):
    """How an input was made, for those who would rather make it again than keep it."""

    function: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]


def project(
    x: Tensor, layers: Sequence[nn.Module], origin: Origin | None = None
) -> tuple[Tensor, ...]:
    """What each layer makes of the same input, in one node of the graph.

    Args:
        x: Input, shape (…, I).
        layers: `nn.Linear` or `LowRankLinear`.
        origin: How to make `x` from tensors that are kept anyway: the backward pass then does so,
            and `x` is freed before.
    """
    if not all(_joins(layer, x) for layer in layers):
        return tuple(layer(x) for layer in layers)
    operands = []
    for layer in layers:
        A = B = None
        if isinstance(layer, LowRankLinear) and layer.enabled:
            A, B = layer.lora_A, layer.lora_B
        operands += [weight_of(layer), layer.bias, A, B]
    scales = tuple(m.scale if isinstance(m, LowRankLinear) else 0.0 for m in layers)
    return _Projections.apply(x, scales, origin, *operands)


def _joins(layer: nn.Module, x: Tensor) -> bool:
    if type(layer) not in (nn.Linear, LowRankLinear):  # others hold their weights in few bits
        return False
    if layer.weight.dtype != x.dtype or (
        isinstance(layer, LowRankLinear) and not layer.is_simple()
    ):
        return False
    return not layer._forward_hooks and not layer._forward_pre_hooks


def _plain(transposed: bool, inputs: int, outputs: int) -> Any:
    """An empty layer to hold merged weights: nothing is drawn or allocated for it."""
    with torch.device("meta"):
        return Conv1D(outputs, inputs) if transposed else nn.Linear(inputs, outputs)


def _merged(
    weight_OI: Tensor, A_RI: Tensor | None, B_OR: Tensor | None, scale: float, beside: bool
) -> Tensor:
    if A_RI is None or B_OR is None or beside:
        return weight_OI
    return torch.addmm(weight_OI, B_OR, A_RI, alpha=scale)


class _Projections(torch.autograd.Function):
    """Inputs: x, scales, x's origin or None, then weight, bias, A, B of each layer; outputs: one
    tensor a layer."""

    @staticmethod
    def forward(ctx: Any, x, scales, origin, *operands):
        x_NI = x.reshape(-1, x.shape[-1])
        outputs = []
        beside = x.dtype in HALF or len(x_NI) < FEW
        for layer, scale in enumerate(scales):
            weight_OI, bias_O, A_RI, B_OR = operands[4 * layer : 4 * layer + 4]
            y_NO = linear(x_NI, _merged(weight_OI, A_RI, B_OR, scale, beside), bias_O)
            if A_RI is not None and beside:
                H_NR = F.linear(x_NI, A_RI.to(x.dtype))
                y_NO.addmm_(H_NR, B_OR.to(x.dtype).t(), alpha=scale)
            outputs.append(y_NO.view(*x.shape[:-1], len(weight_OI)))
        ctx.scales, ctx.shape, ctx.beside = scales, x.shape, beside
        ctx.remake = None if origin is None else origin.function
        ctx.save_for_backward(*operands, *((x_NI,) if origin is None else origin.inputs))
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads):
        count = 4 * len(ctx.scales)
        saved = ctx.saved_tensors  # once: checkpointed tensors can't be unpacked again
        operands, kept = saved[:count], saved[count:]
        x_NI = kept[0] if ctx.remake is None else ctx.remake(*kept).reshape(-1, ctx.shape[-1])
        layers = [operands[i : i + 4] for i in range(0, count, 4)]
        needs = ctx.needs_input_grad[3:]
        dY = [g.reshape(-1, g.shape[-1]) for g in grads]
        results: list[Tensor | None] = [None] * count
        thin = _thin(ctx, x_NI, layers, dY, results)
        for i, (dY_NO, (_weight, bias_O, _A, _B)) in enumerate(zip(dY, layers, strict=True)):
            if needs[4 * i]:
                results[4 * i] = torch.mm(dY_NO.t(), x_NI)
            if bias_O is not None and needs[4 * i + 1]:
                results[4 * i + 1] = dY_NO.sum(0)
        grad_x: Any = None
        if ctx.needs_input_grad[0]:
            for dY_NO, scale, (weight_OI, _, A_RI, B_OR) in zip(
                dY, ctx.scales, layers, strict=True
            ):
                merged_OI = _merged(weight_OI, A_RI, B_OR, scale, ctx.beside)
                grad_x = add_linear(grad_x, dY_NO, merged_OI.t())
            if thin is not None and ctx.beside:
                grad_x.addmm_(*thin)
            grad_x = grad_x.view(ctx.shape)
        return grad_x, None, None, *results


def _thin(ctx: Any, x_NI, layers, dY, results) -> tuple[Tensor, Tensor] | None:
    """Gradients of all A and B; returns (U·s, A) of all layers side by side, for dX."""
    adapted = [i for i, (_, _, A_RI, _) in enumerate(layers) if A_RI is not None]
    if not adapted:
        return None
    A_cat = torch.cat([layers[i][2] for i in adapted]).to(x_NI.dtype)
    U_cat = torch.cat(
        [linear(dY[i], (layers[i][3] * ctx.scales[i]).to(x_NI.dtype).t()) for i in adapted], dim=1
    )
    H_cat = linear(x_NI, A_cat)
    dA_cat = torch.mm(U_cat.t(), x_NI)
    row = 0
    for i in adapted:
        A_RI, B_OR = layers[i][2:]
        rows = slice(row, row + len(A_RI))
        row += len(A_RI)
        results[4 * i + 2] = dA_cat[rows].to(A_RI.dtype)
        dB_RO = torch.mm(H_cat[:, rows].t(), dY[i])
        results[4 * i + 3] = dB_RO.t().to(B_OR.dtype).mul(ctx.scales[i])
    return U_cat, A_cat
