"""The forward pass for one token of one request: what chat on a CPU spends its time on.

At one token a step a product reads every weight once and does nothing else, so the layout of the
weights decides: laid out with the inputs as rows, in pages of 2 MiB, they are read 1.7 times as
fast as torch's linear layers read them (Zen 4, float32; ADR 0018). The rest is the price of calling
operations, so what does not change is folded into the weights (gains of norms, the scale of
attention), a norm is one product's factor, and all results go into the same few buffers. What is
small is left to NumPy over the same memory, which takes a third of torch's time to begin.

Legend: `D` width, `H` query heads, `K` key heads, `G` = H/K, `E` width of a head, `C` cached
tokens, `I` inputs, `O` outputs of a product, `L` layers, `F` width of the MLP, `V` vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tunesmith.models import pages, screening

NARROW = 512
"""Tokens up to which NumPy attends faster than torch."""
SEVERAL = 64
"""States up to which greedy words are looked for by a screen."""
LINE = 16
"""Numbers between the beginnings of two matrices are a multiple of this: a cache line."""


class Product:
    """x ↦ scale · x W' + b, with the gains of the norm before it in W'."""

    def __init__(self, weight_IO: Tensor, bias_O: Tensor | None):
        self.weight_IO = weight_IO
        self.beta = 0 if bias_O is None else 1
        self.bias = weight_IO.new_zeros(1, weight_IO.shape[1]) if bias_O is None else bias_O[None]

    def __call__(self, x_1I: Tensor, scale: float, out_1O: Tensor) -> Tensor:
        return torch.addmm(self.bias, x_1I, self.weight_IO, beta=self.beta, alpha=scale, out=out_1O)


class _Layer:
    """The products of one layer, and its numbers."""

    def __init__(self, source: Any, weights: Sequence[Tensor]):
        qkv, out, gates, down = weights
        self.index, self.rule = source.index, source.rule
        self.eps = [source.before.variance_epsilon, source.between.variance_epsilon]
        self.qkv = Product(qkv, _scaled_bias(source))
        self.out = Product(out, source.out.bias)
        self.gates = Product(gates, source.gates.bias)
        self.down = Product(down.t(), source.down.bias)
        self.down_OI = down


class Single:
    """A packed `Decoder` for one token.

    Args:
        decoder: It has layers with the same heads throughout; `fits` tells.
    """

    def __init__(self, decoder: Any):
        sources = decoder.layers
        first = sources[0]
        self.decoder, self.H, self.K, self.E = decoder, first.H, first.K, first.E
        matrices = [matrix for layer in sources for matrix in _matrices(layer)]
        norm = decoder.base.norm
        matrices.append(_folded(decoder.head, norm.weight))
        *packed, head = pooled(matrices)
        self.layers = [
            _Layer(layer, packed[4 * at : 4 * at + 4]) for at, layer in enumerate(sources)
        ]
        self.head, self.eps = Product(head, decoder.head.bias), norm.variance_epsilon
        bias_V = decoder.head.bias
        self.screen = screening.for_one(head, bias_V)
        self.screen_several = screening.for_several(head, bias_V, decoder.head)
        self._logits_SV = np.empty((0, head.shape[1]), np.float32)
        self._told: list[Any] = []
        self.embedding_VD = decoder.base.embed_tokens.weight.detach()
        self.gains_LHE, self.swapped_LHE = _gains(sources)
        self._buffers(packed[0], packed[2])

    def _buffers(self, qkv_IO: Tensor, gates_IO: Tensor) -> None:
        """Where results go, and the views of them that every layer takes."""
        H, K, E = self.H, self.K, self.E
        half = E // 2
        self.x_1D = qkv_IO.new_empty(1, qkv_IO.shape[0])
        self.x_D = self.x_1D[0]
        self.qkv_1O = qkv_IO.new_empty(1, qkv_IO.shape[1])
        heads = self.qkv_1O.view(H + 2 * K, E)
        self.v_KE, turned = heads[H + K :], torch.empty_like(heads[: H + K])
        self.q_KGE, self.k_KE = turned[:H].view(K, H // K, E), turned[H:]
        self.mixed_KGE = qkv_IO.new_empty(K, H // K, E)
        self.mixed_1O = self.mixed_KGE.view(1, H * E)
        self.np_x_D, self.np_mixed_KGE = self.x_D.numpy(), self.mixed_KGE.numpy()
        self.np_q_KGE, self.np_k_KE, self.np_v_KE = (
            part.numpy() for part in (self.q_KGE, self.k_KE, self.v_KE)
        )
        self.raw, self.turned = heads[: H + K].numpy(), turned.numpy()
        self.low, self.high = self.raw[:, :half], self.raw[:, half:]
        self.crossed = np.empty_like(self.turned)
        self.crossed_low, self.crossed_high = self.crossed[:, :half], self.crossed[:, half:]
        self.norms = np.empty(H + K, np.float32)
        self.norms_1 = self.norms[:, None]
        self.gates_1O = gates_IO.new_empty(1, gates_IO.shape[1])
        self.gate, self.up = self.gates_1O.chunk(2, dim=1)
        self.gate_F = self.gate[0]
        eps = self.decoder.layers[0].norms
        self.floor: float | None = None
        if eps:  # Σx² + E·eps = E · the mean square
            self.floor = E * eps[0].variance_epsilon

    def __call__(
        self, token: int, position: int, lane: Any, row: int, greedy: bool = False
    ) -> Tensor:
        """Logits of what follows the token, shape (1, V); its keys and values go to the lane.

        Args:
            token: Its id.
            position: Its position, and how many tokens the row holds before it.
            lane: Keys and values.
            row: Of the lane.
            greedy: Only the best word is asked for; −∞ for those that are not it for certain.
        """
        x_D = self.x_D
        x_D.copy_(self.embedding_VD[token])
        with np.errstate(all="ignore"):  # what is not finite is told by the logits
            self._through(position, lane, row)
            rate = self._rate(self.eps)
            found = self.screen(self.x_1D * rate) if greedy and self.screen else None
        if found is not None:
            return self._scattered(found)
        out = self.x_1D.new_empty(1, self.embedding_VD.shape[0])
        return self.head(self.x_1D, rate, out)

    def best(self, x_SD: Tensor) -> Tensor | None:
        """Logits after the last layer's states: −∞ for words that are not the best for certain.

        None: there are not several states, or the head must be asked itself.
        """
        if self.screen_several is None or not 1 < len(x_SD) <= SEVERAL:
            return None
        found = self.screen_several(F.rms_norm(x_SD, x_SD.shape[-1:], None, self.eps))
        return None if found is None else self._scattered(found)

    def _scattered(self, found: Sequence[tuple[Any, Any]]) -> Tensor:
        """Scores at their words, −∞ elsewhere; holds until the next call, as it is large."""
        for row, words in enumerate(self._told):
            self._logits_SV[row, words] = -math.inf
        missing = len(found) - len(self._logits_SV)
        if missing > 0:
            more = np.full((missing, len(self.embedding_VD)), -np.inf, np.float32)
            self._logits_SV = np.concatenate([self._logits_SV, more])
        self._told = [words for words, _ in found]
        for row, (words, scores) in zip(self._logits_SV, found, strict=False):
            row[words] = scores
        return torch.from_numpy(self._logits_SV[: len(found)])

    def _rate(self, eps: float) -> float:
        """One over the root mean square of x."""
        x_D = self.np_x_D
        mean = float(x_D.dot(x_D)) / len(x_D)
        # a product whose factor is 0 is 0, whatever it multiplies: infinity would not be seen
        return (mean + eps) ** -0.5 if mean < math.inf else math.nan

    def _through(self, position: int, lane: Any, row: int) -> None:
        """All layers, in `x`."""
        x_1D, x_D = self.x_1D, self.x_D
        cos, sin = self.decoder.table(position, x_1D)
        if self.gains_LHE is not None:
            cos, sin = cos * self.gains_LHE, sin * self.swapped_LHE
        cos, sin = cos.numpy(), sin.numpy()
        for at, layer in enumerate(self.layers):
            layer.qkv(x_1D, self._rate(layer.eps[0]), self.qkv_1O)
            self._turn(*((cos, sin) if self.gains_LHE is None else (cos[at], sin[at])))
            self._attend(layer, position, lane, row)
            x_1D.addmm_(self.mixed_1O, layer.out.weight_IO)
            if layer.out.beta:
                x_1D.add_(layer.out.bias)
            rate = self._rate(layer.eps[1])
            layer.gates(x_1D, rate, self.gates_1O)
            F.silu(self.gate, inplace=True).mul_(self.up)
            x_D.addmv_(layer.down_OI, self.gate_F)
            if layer.down.beta:
                x_1D.add_(layer.down.bias)

    def _turn(self, cos: Any, sin: Any) -> None:
        """Norm over each head, gains and rotation, from `raw` to `turned`."""
        raw, norms = self.raw, self.norms
        if self.floor is not None:
            np.vecdot(raw, raw, out=norms)
            np.add(norms, self.floor, out=norms)
            np.sqrt(norms, out=norms)
            np.divide(raw, self.norms_1, out=raw)
        half = self.E // 2
        np.multiply(raw, cos, out=self.turned)
        np.multiply(self.high, sin[..., :half], out=self.crossed_low)
        np.multiply(self.low, sin[..., half:], out=self.crossed_high)
        np.add(self.turned, self.crossed, out=self.turned)

    def _attend(self, layer: _Layer, position: int, lane: Any, row: int) -> None:
        """What attention gathers, in `mixed`; its scale is in the weights."""
        if layer.index not in lane.keys:
            lane.layer(layer.index, self.k_KE[None], self.v_KE[None])
        keys_KCE, values_KCE = lane.row(layer.index, row)
        keys_KCE[:, position] = self.np_k_KE
        values_KCE[:, position] = self.np_v_KE
        begin = 0 if layer.rule.window is None else max(0, position - layer.rule.window + 1)
        keys, values = keys_KCE[:, begin : position + 1], values_KCE[:, begin : position + 1]
        if position + 1 - begin > NARROW:
            keys, values = torch.from_numpy(keys), torch.from_numpy(values)
            weights = torch.bmm(self.q_KGE, keys.transpose(1, 2)).softmax(-1)
            torch.bmm(weights, values, out=self.mixed_KGE)
            return
        scores = torch.from_numpy(np.matmul(self.np_q_KGE, keys.transpose(0, 2, 1)))
        np.matmul(scores.softmax(-1).numpy(), values, out=self.np_mixed_KGE)


def fits(decoder: Any) -> bool:
    """Whether a decoder's layers are packed in float32 and alike."""
    heads = {(layer.H, layer.K, layer.E, len(layer.norms)) for layer in decoder.layers}
    joined = [j for a in decoder.layers for j in (a.qkv, a.out, a.gates, a.down)]
    return (
        len(heads) == 1
        and all(j.frozen for j in (*joined, decoder.head))
        and decoder.base.embed_tokens.weight.dtype == torch.float32
    )


def pooled(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Copies of matrices side by side in huge pages, where the system has them."""
    sizes = [-(-matrix.numel() // LINE) * LINE for matrix in matrices]
    memory = pages.zeros([sum(sizes)], matrices[0].dtype)
    found, at = [], 0
    for matrix, size in zip(matrices, sizes, strict=True):
        found.append(memory[at : at + matrix.numel()].view(matrix.shape).copy_(matrix))
        at += size
    return found


def _matrices(layer: Any) -> list[Tensor]:
    """Weights of the four products, with what precedes and follows them folded in."""
    qkv_IO = _folded(layer.qkv, layer.before.weight)
    if not layer.norms:
        qkv_IO[:, : layer.H * layer.E] *= layer.rule.scale
    gates_IO = _folded(layer.gates, layer.between.weight)
    # many inputs and few outputs are read fastest the other way round
    return [qkv_IO, _folded(layer.out, None), gates_IO, layer.down.weight()]


def _folded(joined: Any, gains_I: Tensor | None) -> Tensor:
    """Wᵀ with a norm's gains on its rows, shape (I, O)."""
    weight_IO = joined.weight().t()
    return weight_IO.clone() if gains_I is None else weight_IO * gains_I.detach()[:, None]


def _scaled_bias(layer: Any) -> Tensor | None:
    if layer.qkv.bias is None or layer.norms:
        return layer.qkv.bias
    bias_O = layer.qkv.bias.clone()
    bias_O[: layer.H * layer.E] *= layer.rule.scale
    return bias_O


def _gains(layers: Sequence[Any]) -> tuple[Any, Any]:
    """Gains of the heads' norms, and the same with halves swapped for the rotation's other part,
    each (L, H + K, E); queries' also times the scale of attention. None without such norms."""
    if not layers[0].norms:
        return None, None
    found = []
    for layer in layers:
        gains_HE = layer.gains * math.sqrt(layer.E)
        gains_HE[: layer.H] *= layer.rule.scale
        found.append(gains_HE)
    gains_LHE = torch.stack(found)
    half = gains_LHE.shape[-1] // 2
    return gains_LHE, torch.cat([gains_LHE[..., half:], gains_LHE[..., :half]], dim=-1)
