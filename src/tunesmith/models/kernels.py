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
from tunesmith.models.lowrank import project

FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3")
"""Families whose norm, attention and MLP modules compute what `_norm`, `_attention`, `_mlp` do."""
COMPILE_PAYS = 20_000_000
"""Planned tokens × parameters / 10⁶ … see `choose`: compiling costs half a minute at the start."""


def install(hf: PreTrainedModel, kind: str, planned_tokens: int | None = None) -> list[str]:
    """Puts `kind` kernels into `hf`; returns what there is to say about it.

    Args:
        hf: The model; its modules' `forward` are replaced.
        kind: `auto`, `eager`, `fused`, `compiled` or `liger` (`model.kernels` of the recipe).
        planned_tokens: Tokens this run will train on; None: unknown, taken as few.

    Raises:
        ConfigError: C175, Liger's kernels without a CUDA device.
    """
    kind = choose(hf, kind, planned_tokens)
    if kind == "eager":
        return []
    if kind == "liger":
        return _install_liger(hf)
    functions = compiled() if kind == "compiled" else EAGER
    count = 0
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
    return [f"kernels: {kind}"]


def choose(hf: PreTrainedModel, kind: str, planned_tokens: int | None) -> str:
    """What `auto` means for this model and run; other kinds are returned as they are."""
    if kind != "auto":
        return kind
    return "fused"


@lru_cache
def compiled() -> Elementwise:
    """Our element-wise functions through torch.compile, for any number of tokens."""
    return Elementwise(*(torch.compile(function, dynamic=True) for function in EAGER))


def _forward_of(module: nn.Module) -> Any:
    """Our forward for a module of a known family, or None."""
    name = type(module).__name__
    family = next((f for f in FAMILIES if name.removeprefix(f) in _FORWARDS), None)
    if family is None or not type(module).__module__.startswith("transformers.models."):
        return None
    kind = name.removeprefix(family)
    if kind == "MLP" and not isinstance(module.act_fn, nn.SiLU) and not _is_silu(module.act_fn):
        return None
    return _FORWARDS[kind]


def _is_silu(act: nn.Module) -> bool:
    return type(act).__name__ in ("SiLU", "SiLUActivation")


def _norm(self: Any, hidden_states: Tensor) -> Tensor:
    return RmsNorm.apply(hidden_states, self.weight, self.variance_epsilon, self.tunesmith_kernels)


def _mlp(self: Any, x: Tensor) -> Tensor:
    gate, up = project(x, [self.gate_proj, self.up_proj])
    return self.down_proj(Gate.apply(gate, up, self.tunesmith_kernels))


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
    if plan is None or past_key_values is not None:
        own = type(self).forward
        return own(
            self, hidden_states, position_embeddings, attention_mask, past_key_values, **options
        )
    T = hidden_states.shape[1]
    cos_TE, sin_TE = (table[0] for table in position_embeddings)
    heads = (
        y.view(T, -1, self.head_dim)
        for y in project(hidden_states, [self.q_proj, self.k_proj, self.v_proj])
    )
    q_THE, k_TKE, v_TKE = heads
    parts = self._modules
    q_THE = _rotated(self, q_THE, parts.get("q_norm"), cos_TE, sin_TE)
    k_TKE = _rotated(self, k_TKE, parts.get("k_norm"), cos_TE, sin_TE)
    dropout = self.attention_dropout if self.training else 0.0
    rule = Rule(self.scaling, dropout, None, _window_of(self))
    layers = self.config.num_hidden_layers
    output_THE = attend(q_THE, k_TKE, v_TKE, plan, rule, layers)
    return self.o_proj(output_THE.reshape(1, T, -1)), None


def _rotated(self: Any, x_THE: Tensor, norm: nn.Module | None, cos_TE, sin_TE) -> Tensor:
    weight, eps = (None, 0.0) if norm is None else (norm.weight, norm.variance_epsilon)
    return Rotate.apply(x_THE, weight, eps, cos_TE, sin_TE, self.tunesmith_kernels)


def _window_of(self: Any) -> int | None:
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
        from liger_kernel.transformers import _apply_liger_kernel_to_instance
    except ImportError:
        from tunesmith.errors import MissingExtra

        raise MissingExtra("liger-kernel", "cuda", "model.kernels=liger") from None
    _apply_liger_kernel_to_instance(hf, cross_entropy=False, fused_linear_cross_entropy=False)
    return ["kernels: liger"]
