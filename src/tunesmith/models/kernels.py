"""Which kernels a model runs on: transformers' own, ours, ours compiled, or Liger's.

Ours replace the `forward` of single modules of this model, never of a class: another model in the
process is untouched. Families are known by the names of their classes, for the replacement repeats
what their code does; other families keep transformers' own code, and that is said.
"""

from __future__ import annotations

from functools import lru_cache
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith.errors import ConfigError
from tunesmith.models.attention import Rule, attend, carried
from tunesmith.models.fused import EAGER, Elementwise, Gate, RmsNorm, Rotate
from tunesmith.models.lowrank import Origin, project

FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3")
"""Families whose norm, attention and MLP modules compute what `_norm`, `_attention`, `_mlp` do."""
COMPILE_FROM_TOKENS = 100_000_000


def install(hf: PreTrainedModel, kind: str, planned_tokens: int | None = None) -> list[str]:
    """Puts `kind` kernels into `hf`; returns what there is to say about it.

    Args:
        hf: The model; its modules' `forward` are replaced.
        kind: `auto`, `eager`, `fused`, `compiled` or `liger` (`model.kernels` of the recipe).
        planned_tokens: Tokens this run will train on; None: unknown, taken as few.

    Raises:
        ConfigError: C175, Liger's kernels without a CUDA device.
    """
    kind = choose(kind, hf.device.type, planned_tokens)
    if kind == "eager":
        return []
    if kind == "liger":
        return _install_liger(hf)
    functions = compiled() if kind == "compiled" else EAGER
    count = 0
    module: Any
    for module in hf.modules():
        forward = _forward_of(module)
        if forward is not None:
            module.tunesmith_kernels = functions
            module.forward = MethodType(forward, module)
            count += 1
    if not count:
        return [
            f"kernels: {hf.config.model_type} runs on transformers' own, for ours do not know it"
        ]
    last = _last_layer_of(hf)
    if last is not None:
        last.forward = MethodType(_last_layer, last)
    return [f"kernels: {kind}"]


def known(hf: PreTrainedModel) -> bool:
    """Whether `hf` is a causal language model of a family whose code ours repeats."""
    return type(hf).__name__ in {f"{family}ForCausalLM" for family in FAMILIES}


def trims(hf: PreTrainedModel) -> bool:
    """Whether the last layer returns only the positions that the plan wants."""
    last = _last_layer_of(hf)
    return last is not None and "forward" in last.__dict__


def choose(kind: str, device: str, planned_tokens: int | None) -> str:
    """What `auto` means on a type of device and for a run; other kinds are returned as they are.

    On two CPU cores compiling gains 1 % over our eager kernels (861 against 870 tokens/s) and costs
    half a minute, so there it is never chosen; on a GPU it pays from about 10⁸ tokens on.
    """
    if kind != "auto":
        return kind
    long_run = planned_tokens is not None and planned_tokens >= COMPILE_FROM_TOKENS
    return "compiled" if device == "cuda" and long_run else "fused"


@lru_cache
def compiled() -> Elementwise:
    """Our element-wise functions through torch.compile, for any number of tokens."""
    return Elementwise(*(torch.compile(function, dynamic=True) for function in EAGER))


def _forward_of(module: Any) -> Any:
    """Our forward for a module of a known family, or None."""
    name = type(module).__name__
    family = next((f for f in FAMILIES if name.removeprefix(f) in _FORWARDS), None)
    if family is None or not type(module).__module__.startswith("transformers.models."):
        return None
    kind = name.removeprefix(family)
    if kind == "MLP" and not is_gated(module):
        return None
    return _FORWARDS[kind]


def is_gated(mlp: Any) -> bool:
    """Whether the MLP of a known family gates with SiLU."""
    return type(mlp.act_fn).__name__ in ("SiLU", "SiLUActivation")


def _norm(self: Any, hidden_states: Tensor) -> Tensor:
    functions, eps = self.tunesmith_kernels, self.variance_epsilon
    normed = RmsNorm.apply(hidden_states, self.weight, eps, functions)
    # The residual stream is kept for the norm's own gradient, so its output need not be.
    remake = lambda x, weight_D: functions.norm_forward(x, weight_D, eps)[0]
    normed.origin = Origin(remake, (hidden_states.detach(), self.weight.detach()))
    return normed


def _origin(x: Tensor) -> Origin | None:
    """How `_norm` made a tensor, if it did."""
    return getattr(x, "origin", None)


def _mlp(self: Any, x: Tensor) -> Tensor:
    gate, up = project(x, [self.gate_proj, self.up_proj], _origin(x))
    functions = self.tunesmith_kernels
    # The product is as wide as gate and up, which are kept: it is cheap to form once more.
    origin = Origin(functions.gate_forward, (gate.detach(), up.detach()))
    return project(Gate.apply(gate, up, functions), [self.down_proj], origin)[0]


def _attention(
    self: Any,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    attention_mask: Tensor | None = None,
    past_key_values: Any = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention of a packed row; anything else goes the family's own way."""
    plan = carried(attention_mask)
    if plan is None or plan.cached or past_key_values is not None:
        own = type(self).forward
        return own(
            self, hidden_states, position_embeddings, attention_mask, past_key_values, **options
        )
    T = hidden_states.shape[1]
    cos_TE, sin_TE = (table[0] for table in position_embeddings)
    layers = [self.q_proj, self.k_proj, self.v_proj]
    projected = project(hidden_states, layers, _origin(hidden_states))
    q_THE, k_TKE, v_TKE = (y.view(T, -1, self.head_dim) for y in projected)
    parts = self._modules
    q_THE = _rotated(self, q_THE, parts.get("q_norm"), cos_TE, sin_TE)
    k_TKE = _rotated(self, k_TKE, parts.get("k_norm"), cos_TE, sin_TE)
    if plan.injected is not None:
        k_TKE, v_TKE = plan.injected.put(self.layer_idx, k_TKE, v_TKE)
    dropout = self.attention_dropout if self.training else 0.0
    rule = Rule(self.scaling, dropout, None, window_of(self))
    depth = self.config.num_hidden_layers
    output_TD = attend(q_THE, k_TKE, v_TKE, plan, rule, depth).reshape(T, -1)
    if self is options.get("trimmed") and plan.wanted_S is not None:
        output_TD = output_TD.index_select(0, plan.wanted_S)
    return self.o_proj(output_TD[None]), None


def _last_layer(
    self: Any, hidden_states: Tensor, attention_mask: Tensor | None = None, **options: Any
) -> Tensor:
    """The last layer, which after its attention goes on with the wanted positions alone.

    The hidden states of a prompt's tokens serve the layers above; above the last there is only
    the head, which is asked for the supervised positions.
    """
    plan = carried(attention_mask)
    if plan is None or plan.wanted_S is None:
        return type(self).forward(self, hidden_states, attention_mask=attention_mask, **options)
    mixed, _ = self.self_attn(
        hidden_states=self.input_layernorm(hidden_states),
        attention_mask=attention_mask,
        trimmed=self.self_attn,
        **options,
    )
    residual = hidden_states.index_select(1, plan.wanted_S) + mixed
    return residual + self.mlp(self.post_attention_layernorm(residual))


def _last_layer_of(hf: PreTrainedModel) -> Any:
    """The last decoder layer, if it is of a known family and its parts are ours."""
    layers = hf.base_model._modules.get("layers")
    if not isinstance(layers, nn.ModuleList) or not len(layers):
        return None
    last = layers[-1]
    known = type(last).__name__ in {f"{family}DecoderLayer" for family in FAMILIES}
    return last if known and "forward" in last.self_attn.__dict__ else None


def _rotated(self: Any, x_THE: Tensor, norm: nn.Module | None, cos_TE, sin_TE) -> Tensor:
    weight, eps = (None, 0.0) if norm is None else (norm.weight, norm.variance_epsilon)
    return Rotate.apply(x_THE, weight, eps, cos_TE, sin_TE, self.tunesmith_kernels)


def window_of(self: Any) -> int | None:
    """Mistral keeps its window in the config, Qwen in the layer, Llama has none."""
    if "sliding_window" in self.__dict__:
        return self.sliding_window
    fields = self.config.to_dict()
    return fields.get("sliding_window") if type(self).__name__.startswith("Mistral") else None


_FORWARDS = {"RMSNorm": _norm, "MLP": _mlp, "Attention": _attention}


def _install_liger(hf: PreTrainedModel) -> list[str]:
    if hf.device.type != "cuda":
        raise ConfigError(
            "C175",
            f"Liger's kernels need a CUDA device, this model is on {hf.device.type}",
            where="model.kernels",
            fix="model.kernels=auto",
        )
    try:
        from liger_kernel.transformers import _apply_liger_kernel_to_instance  # pyright: ignore
    except ImportError:
        from tunesmith.errors import MissingExtra

        raise MissingExtra("liger-kernel", "cuda", "model.kernels=liger") from None
    _apply_liger_kernel_to_instance(hf, cross_entropy=False, fused_linear_cross_entropy=False)
    return ["kernels: liger"]
