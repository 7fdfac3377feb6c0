"""Prefix tuning: trained keys and values before every sample, as PEFT has it (arXiv:2101.00190)."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tunesmith.tuners.base import decay_groups

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class PrefixConfig:
    """Train keys and values of virtual tokens in every layer; the model stays as it is."""

    kind: Literal["prefix"] = "prefix"
    """The tuner's name."""
    tokens: int = 20
    """How many virtual tokens stand before every sample."""
    projection: bool = False
    """Make keys and values by an MLP while training (the paper's reparameterisation): steadier,
    with many more parameters; only what it makes is kept."""
    hidden: int | None = None
    """Width of that MLP; default: the model's."""


class PrefixTuner:
    Config = PrefixConfig
    packable = True
    mergeable = False

    def __init__(self, config: PrefixConfig):
        self.config = config

    @classmethod
    def build(cls, config: PrefixConfig) -> PrefixTuner:
        """Raises:
        ConfigError: E232, no tokens, or a width of an MLP that there is not.
        """
        from tunesmith.tuners.prompt_impl import check

        check(config)
        return cls(config)

    def apply(self, model: nn.Module) -> None:
        """Freezes the model and gives it virtual tokens, drawn from torch's RNG.

        Raises:
            ConfigError: E233, the model has virtual tokens already, or can't have any.
        """
        from tunesmith.tuners import prompt_impl

        prompt_impl.apply_prefix(model, self.config)

    def load(self, model: nn.Module, path: Path) -> None:
        """Reads virtual tokens written by `save` or by PEFT.

        Raises:
            EnvironmentFault: E209, files are missing; E210, they don't fit this model.
        """
        from tunesmith.tuners import prompt_impl

        prompt_impl.load(model, path)

    def parameter_groups(self, model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
        return decay_groups(model, weight_decay)

    def reference(self, model: nn.Module) -> AbstractContextManager[None]:
        """The model without its virtual tokens, for as long as the context lasts."""
        from tunesmith.tuners import prompt_impl

        return prompt_impl.reference(model)

    def save(self, model: nn.Module, path: Path) -> None:
        """Writes adapter_config.json and adapter_model.safetensors."""
        from tunesmith.tuners import prompt_impl

        prompt_impl.save(model, path)

    def merge(self, model: nn.Module) -> None:
        """Raises:
        ConfigError: E234, virtual tokens are no change of weights.
        """
        from tunesmith.tuners.prompt_impl import no_merge

        raise no_merge("prefix tuning")
