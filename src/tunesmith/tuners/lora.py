"""LoRA: low-rank deltas beside frozen weights, in PEFT's file format (arXiv:2106.09685)."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tunesmith.tuners.base import decay_groups

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class LoraConfig:
    """Train a low-rank delta (lora_alpha/r)·B·A beside each chosen linear layer."""

    kind: Literal["lora"] = "lora"
    """The tuner's name."""
    r: int = 8
    """Rank of the delta."""
    lora_alpha: float = 16
    """The delta is scaled by lora_alpha / r."""
    lora_dropout: float = 0.0
    """Probability of dropping an input of the delta in training; 0 is also the fastest."""
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """all-linear (all but the output head), or names of linear layers such as [q_proj, v_proj]."""
    modules_to_save: tuple[str, ...] = ()
    """Modules trained whole and saved with the adapter, such as [lm_head, embed_tokens]."""
    use_rslora: bool = False
    """Scale by lora_alpha / √r: keeps the delta's size at large ranks (arXiv:2312.03732)."""
    use_dora: bool = False
    """Learn each weight row's norm apart from its direction (arXiv:2402.09353); slower."""
    bias: Literal["none"] = "none"
    """Biases stay frozen."""


class LoraTuner:
    Config = LoraConfig
    packable = True
    mergeable = True

    def __init__(self, config: LoraConfig):
        self.config = config

    @classmethod
    def build(cls, config: LoraConfig) -> LoraTuner:
        return cls(config)

    def apply(self, model: nn.Module) -> None:
        """Freezes the model and puts deltas beside its linear layers, drawn from torch's RNG.

        Raises:
            ConfigError: C170, r < 1 or dropout outside [0, 1); C171, a target is no linear layer;
                C172, a module to save is not there.
        """
        from tunesmith.tuners import lora_impl

        lora_impl.apply(model, self.config)

    def load(self, model: nn.Module, path: Path) -> None:
        """Reads an adapter written by `save` or by PEFT into a model it was applied to.

        Raises:
            EnvironmentFault: E209, files are missing; E210, it does not fit this model.
        """
        from tunesmith.tuners import lora_files_impl

        lora_files_impl.load(model, path)

    def parameter_groups(self, model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
        return decay_groups(model, weight_decay)

    def reference(self, model: nn.Module) -> AbstractContextManager[None]:
        """The model without its adapter, for as long as the context lasts."""
        from tunesmith.tuners import lora_impl

        return lora_impl.reference(model)

    def save(self, model: nn.Module, path: Path) -> None:
        """Writes adapter_config.json and adapter_model.safetensors."""
        from tunesmith.tuners import lora_files_impl

        lora_files_impl.save(model, path, self.config)

    def merge(self, model: nn.Module) -> None:
        """Adds the deltas, computed in float32, to the weights and removes the adapter."""
        from tunesmith.tuners import lora_impl

        lora_impl.merge(model)
