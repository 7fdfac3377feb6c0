"""Models whose linear layers hold few bits: loading them so, saying so, and deltas beside them.

Legend: `I` inputs, `O` outputs, `R` rank.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, PreTrainedConfig

from tunesmith.errors import ConfigError
from tunesmith.models.lowrank import LowRankLinear
from tunesmith.quant import bnb
from tunesmith.recipe.sections import ModelConfig


def options(
    model: ModelConfig, config: PreTrainedConfig, keep: tuple[str, ...], *, dtype: Any, device: Any
) -> dict[str, Any]:
    """What `from_pretrained` is told so that it quantises, one tensor after another, as it reads.

    Args:
        model: The recipe's section.
        config: Of the model.
        keep: Modules that stay as they are beside the head.
        dtype: Type of what is not quantised, and of the products.
        device: Where the weights go.

    Raises:
        ConfigError: E230, they are quantised already.
        EnvironmentFault: E231, they are quantised by something else.
        MissingExtra: E401, bitsandbytes is not installed.
    """
    already = bnb.stored(config)
    if model.quantize is None and not already:
        return {}
    found: dict[str, Any] = {"device_map": {"": torch.device(device)}}
    if already and model.quantize is not None:
        what = "this model's weights are quantised already"
        raise ConfigError("E230", what, where="model.quantize", fix="leave out model.quantize")
    if model.quantize is not None:
        whole = (*head_names(config), *keep)
        found["quantization_config"] = bnb.loading(model.quantize, whole, dtype)
    return found


def refuse_fresh(model: ModelConfig) -> None:
    """Raises:
    ConfigError: E230, weights that are drawn anew were to be quantised.
    """
    if model.quantize is not None:
        raise ConfigError(
            "E230",
            "a model from scratch has nothing that could be quantised",
            where="model.quantize",
            why="Quantised weights are frozen; these are still to be learnt.",
            fix="leave out model.quantize, or name trained weights by model.path",
        )


def head_names(config: PreTrainedConfig) -> list[str]:
    """Full names of the output head: it is never quantised."""
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    head = empty.get_output_embeddings()
    return [name for name, module in empty.named_modules() if module is head]


def layers(hf: nn.Module) -> dict[str, Any]:
    """Quantised layers by full name."""
    return {name: module for name, module in hf.named_modules() if is_quantised(module)}


def is_quantised(module: nn.Module) -> bool:
    """Whether a layer holds few bits; bitsandbytes is not imported to find that out."""
    return type(module).__name__ == "QuantisedLinear"


def parameters(hf: nn.Module) -> int:
    """Numbers a model has, quantised ones counted as what they stand for."""
    held = sum(layer.in_features * layer.out_features for layer in layers(hf).values())
    return held + sum(p.numel() for p in hf.parameters())


def notes(hf: nn.Module) -> list[str]:
    """What there is to say: `quantised: 42 linear layers in 4 bits, 3.2 MB instead of …`."""
    found = list(layers(hf).values())
    if not found:
        return []
    bits, dtype = found[0].bits, found[0].dtype
    small = sum(layer.nbytes for layer in found)
    whole = sum(layer.in_features * layer.out_features for layer in found) * dtype.itemsize
    name = str(dtype).removeprefix("torch.")
    said = [
        f"quantised: {len(found)} linear layers in {bits} bits, {small / 1e6:,.1f} MB instead of "
        f"{whole / 1e6:,.1f}; embeddings, head and products in {name}"
    ]
    if bits == 8:
        said.append("in 8 bits an answer may depend on what is computed in the same batch")
    return said


class BesideQuantised(LowRankLinear):
    """A low-rank delta beside a layer whose own weights stay in few bits (QLoRA, 2305.14314).

    Args:
        base: A quantised layer.
        rank: r.
        scale: α/r, or α/√r.
        dropout: Probability of dropping an input of the delta in training.
    """

    def __init__(self, base: Any, *, rank: int, scale: float, dropout: float = 0.0):
        nn.Module.__init__(self)
        self.base = base
        self.training, self.transposed = base.training, False
        self.out_features, self.in_features = base.out_features, base.in_features
        self.scale, self.dropout, self.enabled = scale, dropout, True
        like = {"device": base.device, "dtype": torch.promote_types(base.dtype, torch.float32)}
        A_RI = torch.empty(rank, self.in_features)  # drawn on the CPU: the same on every device
        nn.init.kaiming_uniform_(A_RI, a=5**0.5)
        self.lora_A = nn.Parameter(A_RI.to(**like))
        self.lora_B = nn.Parameter(torch.zeros(self.out_features, rank, **like))
        self.lora_magnitude = None

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The base's weights, dequantised anew at each call, shape (O, I)."""
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:  # type: ignore[override]
        return self.base.bias

    def is_simple(self) -> bool:
        return False

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.base.dtype)
        y = self.base(x)
        if not self.enabled:
            return y
        return y + self._beside(F.dropout(x, self.dropout, self.training))
