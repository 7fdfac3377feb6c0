"""The forward pass of generation for Llama-like families: few operations a token, packed weights.

At one token a step the time goes into reading weights and into everything that is done once a
layer, however small. So projections of one input are one product, weights that do not change are
laid out as oneDNN reads them fastest (at 16 tokens it takes half the time), deltas of low rank
are added into that copy, rotation tables are made once, and the last layer goes on with the
wanted tokens alone.

Legend: `T` tokens, `S` wanted tokens, `D` width, `H` query heads, `K` key heads, `E` width of a
head, `O` outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from tunesmith.losses.products import lay_out, packed_linear
from tunesmith.models import pages
from tunesmith.models.attention import Rule
from tunesmith.models.fused import norm_forward
from tunesmith.models.kernels import is_gated, known, window_of
from tunesmith.models.lowrank import LowRankLinear, project, weight_of
from tunesmith.models.single import Single, fits

STATIC = ("default", "linear", "llama3", "yarn")
"""Kinds of rotation that are the same at every length."""
SOME = 64
"""Tokens up to which the number of operations counts more than their size."""
FIRST_TABLE = 256
FEW = 4
"""oneDNN reads its layout faster for four rows than for one to three."""
SINGLE_BYTES = 2**30
"""Weights up to this size get another copy, laid out for one token a step."""


class Delta(NamedTuple):
    """A low-rank change of one linear layer: x ↦ x + s · (x Aᵀ) Bᵀ."""

    A_RI: Tensor
    B_OR: Tensor
    scale: float


class Beside(NamedTuple):
    """Tokens `first` … `last` - 1 of a step, computed with these deltas, by module name."""

    first: int
    last: int
    deltas: Mapping[str, Delta]


class Joined:
    """Linear layers on one input, as one product where their weights stay as they are.

    Args:
        named: The layers by their names in the model.
        pack: Whether to hold a copy of the weights, with their own deltas in it.
    """

    def __init__(self, named: Mapping[str, nn.Module], pack: bool):
        self.names = list(named)
        self.layers: list[Any] = list(named.values())
        self.widths: list[int] = [layer.out_features for layer in self.layers]
        self.bias: Tensor | None = None
        self.packed: Tensor | None = None
        self.whole: Tensor | None = None
        kinds = (nn.Linear, LowRankLinear)
        self.frozen = pack and all(type(layer) in kinds for layer in self.layers)
        """Whether a copy may be held."""
        if self.frozen:
            whole_OI = self.weight()
            self.bias = _biases(self.layers, whole_OI)
            self.packed = lay_out(whole_OI)
            self.whole = whole_OI if self.packed is None else None

    def weight(self) -> Tensor:
        """Weights of all layers with their own deltas, one below the other, shape (ΣO, I)."""
        weights = [_weight(layer) for layer in self.layers]
        return torch.cat(weights) if len(weights) > 1 else weights[0]

    def __call__(self, x_TI: Tensor, beside: Sequence[Beside] = ()) -> Tensor:
        """All outputs side by side, shape (T, ΣO)."""
        if self.packed is not None:
            y_TO = _packed(x_TI, self.packed)
            y_TO = y_TO if self.bias is None else y_TO.add_(self.bias)
        elif self.whole is not None:
            y_TO = F.linear(x_TI, self.whole, self.bias)
        else:
            found = project(x_TI, self.layers)
            y_TO = found[0] if len(found) == 1 else torch.cat(found, dim=-1)
        for part in beside:
            begin = 0
            for name, width in zip(self.names, self.widths, strict=True):
                delta = part.deltas.get(name)
                if delta is not None:
                    x = x_TI[part.first : part.last]
                    y = y_TO[part.first : part.last, begin : begin + width]
                    add_delta(y, x, delta)
                begin += width
        return y_TO


def _packed(x_TI: Tensor, packed: Tensor) -> Tensor:
    """x Wᵀ; with fewer rows than `FEW` zeros are multiplied too, which takes less time."""
    missing = FEW - len(x_TI)
    if missing <= 0:
        return packed_linear(x_TI.contiguous(), packed)
    return packed_linear(F.pad(x_TI, (0, 0, 0, missing)), packed)[:-missing]


def add_delta(y_nO: Tensor, x_nI: Tensor, delta: Delta) -> None:
    """y += s · (x Aᵀ) Bᵀ, in place."""
    H_nR = F.linear(x_nI, delta.A_RI.to(x_nI.dtype))
    y_nO.add_(F.linear(H_nR, delta.B_OR.to(x_nI.dtype)), alpha=delta.scale)


def _weight(layer: Any) -> Tensor:
    if isinstance(layer, LowRankLinear) and layer.enabled:
        return layer.merged_OI().to(layer.weight.dtype).detach()
    return weight_of(layer).detach()


def _biases(layers: Sequence[Any], like: Tensor) -> Tensor | None:
    if all(layer.bias is None for layer in layers):
        return None
    parts = [
        like.new_zeros(layer.out_features) if layer.bias is None else layer.bias.detach()
        for layer in layers
    ]
    return torch.cat(parts)


class _Layer:
    """One decoder layer, as a handful of products."""

    def __init__(self, layer: Any, prefix: str, pack: bool):
        self.attention, mlp = layer.self_attn, layer.mlp
        self.before, self.between = layer.input_layernorm, layer.post_attention_layernorm
        at = f"{prefix}.self_attn."
        parts = {f"{at}{n}_proj": self.attention.get_submodule(f"{n}_proj") for n in "qkv"}
        self.qkv = Joined(parts, pack)
        self.out = Joined({f"{at}o_proj": self.attention.o_proj}, pack)
        names = [f"{prefix}.mlp.{n}" for n in ("gate_proj", "up_proj", "down_proj")]
        self.gates = Joined({names[0]: mlp.gate_proj, names[1]: mlp.up_proj}, pack)
        self.down = Joined({names[2]: mlp.down_proj}, pack)
        self.E = self.attention.head_dim
        self.H, self.K = self.qkv.widths[0] // self.E, self.qkv.widths[1] // self.E
        self.index = self.attention.layer_idx
        self.rule = Rule(self.attention.scaling, window=window_of(self.attention))
        norms = [self.attention._modules.get(name) for name in ("q_norm", "k_norm")]
        self.norms: list[Any] = [norm for norm in norms if norm is not None]
        self.gains: Tensor | None = None
        if self.norms and pack:  # one weight for all heads
            pairs = zip(self.norms, (self.H, self.K), strict=True)
            self.gains = torch.cat([norm.weight.detach().expand(n, -1) for norm, n in pairs])

    def mix(self, x_TD: Tensor, cos, sin, plan: Any, beside: Sequence[Beside]) -> Tensor:
        """What attention gathers, before its output projection, shape (T, H·E)."""
        T, H, K = len(x_TD), self.H, self.K
        heads = self.qkv(_norm(self.before, x_TD), beside).view(T, H + 2 * K, self.E)
        turned, v_TKE = heads[:, : H + K], heads[:, H + K :]
        if self.gains is not None and turned.dtype == torch.float32:
            eps = self.norms[0].variance_epsilon
            turned = _even(turned, eps).mul_(self.gains)
        elif self.norms:
            pairs = zip(self.norms, (turned[:, :H], turned[:, H:]), strict=True)
            turned = torch.cat([_norm(norm, part) for norm, part in pairs], dim=1)
        turned = _turn(turned, cos, sin)
        out_THE = plan.attend(self.index, turned[:, :H], turned[:, H:], v_TKE, self.rule)
        return out_THE.reshape(T, -1)

    def rest(self, x_TD: Tensor, mixed: Tensor, beside: Sequence[Beside]) -> Tensor:
        """Output projection and MLP, each added to the residual stream."""
        x_TD = self.out(mixed, beside).add_(x_TD)
        gates = self.gates(_norm(self.between, x_TD), beside)
        half = gates.shape[-1] // 2
        inner = F.silu(gates[:, :half]).mul_(gates[:, half:])
        return self.down(inner, beside).add_(x_TD)


class Decoder:
    """A Llama-like model for generation.

    Args:
        hf: A model that `serves` accepts.
        pack: Whether its weights stay as they are, so that a faster copy may be held.
    """

    def __init__(self, hf: PreTrainedModel, pack: bool):
        self.hf: Any = hf
        base = hf.base_model_prefix
        self.base: Any = hf.base_model
        self.layers = [
            _Layer(layer, f"{base}.layers.{at}", pack) for at, layer in enumerate(self.base.layers)
        ]
        self.head = Joined({"lm_head": self.hf.lm_head}, pack)
        pages.settle(joined.packed for joined in self._joined() if joined.packed is not None)
        self._tables: tuple[Tensor, Tensor] | None = None
        size = sum(p.numel() * p.element_size() for p in hf.parameters())
        self.single = Single(self) if size <= SINGLE_BYTES and fits(self) else None

    def __call__(
        self,
        ids_T: Tensor,
        positions_T: Tensor,
        wanted_S: Tensor | None,
        plan: Any,
        beside: Sequence[Beside] = (),
        greedy: bool = False,
    ) -> Tensor:
        """Logits of the wanted tokens (None: of all), shape (S, V).

        Args:
            ids_T: New tokens.
            positions_T: Their positions.
            wanted_S: Indices of those whose successors are asked for.
            plan: `attend(layer, q, k, v, rule)`, and the `positions` as a list.
            beside: Tokens computed with deltas.
            greedy: Only the best word of each is asked for; others' logits may be −∞.
        """
        x = self.base.embed_tokens(ids_T)
        cos, sin = self._rotation(positions_T, max(plan.positions), x)
        for layer in self.layers[:-1]:
            x = layer.rest(x, layer.mix(x, cos, sin, plan, beside), beside)
        last = self.layers[-1]
        mixed = last.mix(x, cos, sin, plan, beside)
        if wanted_S is not None:
            x, mixed = x.index_select(0, wanted_S), mixed.index_select(0, wanted_S)
            beside = _of_wanted(beside, wanted_S.tolist()) if beside else beside
        x = last.rest(x, mixed, beside)
        touched = any(name in part.deltas for part in beside for name in self.head.names)
        if greedy and self.single is not None and not touched:
            found = self.single.best(x)
            if found is not None:
                return found
        return self.head(_norm(self.base.norm, x), beside)

    def _joined(self) -> Iterator[Joined]:
        for layer in self.layers:
            yield from (layer.qkv, layer.out, layer.gates, layer.down)
        yield self.head

    def _rotation(self, positions_T: Tensor, last: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines at positions, each (T, 1, E)."""
        cos, sin = self.tables(last + 1, like)
        if len(positions_T) == 1:
            return cos[last : last + 1], sin[last : last + 1]
        return cos.index_select(0, positions_T), sin.index_select(0, positions_T)

    def tables(self, count: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines of at least so many positions, each (T, 1, E)."""
        if self._tables is None or len(self._tables[0]) < count:
            size = FIRST_TABLE
            while size < count:
                size *= 2
            every = torch.arange(size, device=like.device)[None]
            cos, sin = (t[0][:, None] for t in self.base.rotary_emb(like[None], every))
            half = sin.shape[-1] // 2
            signed = torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)
            self._tables = cos.contiguous(), signed
        return self._tables

    def table(self, position: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines at one position, each (1, E)."""
        cos, sin = self.tables(position + 1, like)
        return cos[position], sin[position]


def serves(hf: PreTrainedModel) -> bool:
    """Whether `Decoder` computes what `hf` does."""
    if not known(hf):
        return False
    rope = hf.config.get_text_config().to_dict().get("rope_parameters") or {}
    layers: Any = hf.base_model.get_submodule("layers")
    return rope.get("rope_type", "default") in STATIC and all(
        is_gated(layer.mlp) for layer in layers
    )


def _of_wanted(beside: Sequence[Beside], wanted: list[int]) -> list[Beside]:
    """The same deltas for wanted tokens alone, which are in ascending order."""
    found = []
    for part in beside:
        first = sum(at < part.first for at in wanted)
        found.append(Beside(first, sum(at < part.last for at in wanted), part.deltas))
    return found


def _norm(norm: Any, x: Tensor) -> Tensor:
    if x.dtype in (torch.bfloat16, torch.float16):  # transformers rounds before the weight
        return norm_forward(x, norm.weight, norm.variance_epsilon)[0]
    if len(x) == 1 and x.dim() == 2 and x.device.type == "cpu":
        flat_D = x[0]  # few operations, and on a CPU the sum needs no wait
        mean = float(torch.dot(flat_D, flat_D)) / x.shape[-1]
        return (x * norm.weight).mul_((mean + norm.variance_epsilon) ** -0.5)
    if x.dtype == torch.float32:
        return _even(x, norm.variance_epsilon).mul_(norm.weight)
    return F.rms_norm(x, x.shape[-1:], norm.weight, norm.variance_epsilon)


def _even(x: Tensor, eps: float) -> Tensor:
    """x over its root mean square along the last dimension.

    On a CPU torch's own takes a dozen operations; for a few tokens it is the number that counts.
    """
    if x.device.type != "cpu" or len(x) > SOME:
        return F.rms_norm(x, x.shape[-1:], None, eps)
    size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x * size.square_().mul_(1 / x.shape[-1]).add_(eps).rsqrt_()


def _turn(x_THE: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    """(x₁, x₂) → (x₁·cos − x₂·sin, x₂·cos + x₁·sin)."""
    half = x_THE.shape[-1] // 2
    y_THE = x_THE * cos
    y_THE[..., :half].addcmul_(x_THE[..., half:], signed_sin[..., :half])
    y_THE[..., half:].addcmul_(x_THE[..., :half], signed_sin[..., half:])
    return y_THE
