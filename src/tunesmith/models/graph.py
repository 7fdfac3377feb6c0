"""One decoding step as a graph of fixed form: what is compiled, and what can be exported.

The arithmetic is that of `single`, with its folded weights, but without anything that a graph can't
hold: positions are tensors, the cache is read whole and masked, nothing depends on values.

Legend: as in `single`; `R` rows, `C` room of the cache in tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class StepGraph(nn.Module):
    """(ids_R, positions_R, keys, values) → logits (R, V); writes into keys and values.

    `keys` and `values` hold one tensor a layer, shape (R, K, C, E). Each row's token is written at
    its position, and sees what is there up to it.

    Args:
        single: Weights, folded; they are shared, not copied.
        reach: Positions it may meet.
    """

    def __init__(self, single: Any, reach: int):
        super().__init__()
        self.H, self.K, self.E = single.H, single.K, single.E
        self.products: list[tuple[Any, ...]] = []
        self.rules: list[tuple[Sequence[float], int | None]] = []
        for layer in single.layers:
            self.products.append((layer.qkv, layer.out, layer.gates, layer.down))
            self.rules.append((layer.eps, layer.rule.window))
        self.head, self.eps, self.floor = single.head, single.eps, single.floor
        self.embedding_VD = single.embedding_VD
        self.gains_LHE, self.swapped_LHE = single.gains_LHE, single.swapped_LHE
        cos, sin = single.decoder.tables(reach, single.x_1D)
        self.cos_TE, self.sin_TE = cos[:, 0].clone(), sin[:, 0].clone()

    def forward(
        self, ids_R: Tensor, positions_R: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor]
    ) -> Tensor:
        x_RD = F.embedding(ids_R, self.embedding_VD)
        cos, sin = self.cos_TE[positions_R][:, None], self.sin_TE[positions_R][:, None]
        behind_RC = positions_R[:, None] - torch.arange(keys[0].shape[2], device=ids_R.device)
        for at, (products, (eps, window)) in enumerate(zip(self.products, self.rules, strict=True)):
            qkv, out, gates, down = products
            heads = _product(qkv, _normal(x_RD, eps[0]))
            heads = heads.view(-1, self.H + 2 * self.K, self.E)
            q_RHE, k_RKE = self._turned(heads[:, : self.H + self.K], cos, sin, at)
            seen_RC = behind_RC >= 0
            if window is not None:
                seen_RC = seen_RC & (behind_RC < window)
            cache = keys[at], values[at]
            mixed = _attend(q_RHE, (k_RKE, heads[:, -self.K :]), cache, positions_R, seen_RC)
            x_RD = x_RD + _product(out, mixed)
            gate, up = _product(gates, _normal(x_RD, eps[1])).chunk(2, dim=-1)
            x_RD = x_RD + _product(down, F.silu(gate) * up)
        return _product(self.head, _normal(x_RD, self.eps))

    def _turned(self, raw: Tensor, cos: Tensor, sin: Tensor, at: int) -> tuple[Tensor, Tensor]:
        """Queries and keys after norm, gains and rotation."""
        if self.floor is not None:
            raw = raw / torch.sqrt(raw.square().sum(-1, keepdim=True) + self.floor)
            cos, sin = cos * self.gains_LHE[at], sin * self.swapped_LHE[at]
        low, high = raw.chunk(2, dim=-1)
        turned = raw * cos + torch.cat([high, low], dim=-1) * sin
        return turned[:, : self.H], turned[:, self.H :]


def _normal(x_RD: Tensor, eps: float) -> Tensor:
    return x_RD * torch.rsqrt(x_RD.square().mean(-1, keepdim=True) + eps)


def _product(product: Any, x_RI: Tensor) -> Tensor:
    if product.beta:
        return torch.addmm(product.bias[0], x_RI, product.weight_IO)
    return torch.mm(x_RI, product.weight_IO)


def _attend(
    q_RHE: Tensor,
    new: tuple[Tensor, Tensor],
    cache: tuple[Tensor, Tensor],
    positions_R: Tensor,
    seen_RC: Tensor,
) -> Tensor:
    """Writes the new keys and values into the cache, and attends; shape (R, H·E)."""
    k_RKCE, v_RKCE = cache
    rows_R1 = torch.arange(len(q_RHE), device=q_RHE.device)[:, None]
    heads_K = torch.arange(k_RKCE.shape[1], device=q_RHE.device)
    for table_RKCE, new_RKE in zip(cache, new, strict=True):
        table_RKCE.index_put_((rows_R1, heads_K, positions_R[:, None]), new_RKE)
    q_RKGE = q_RHE.view(len(q_RHE), k_RKCE.shape[1], -1, q_RHE.shape[-1])
    scores = (q_RKGE @ k_RKCE.transpose(2, 3)).masked_fill(~seen_RC[:, None, None], float("-inf"))
    return (scores.softmax(-1) @ v_RKCE).reshape(len(q_RHE), -1)
