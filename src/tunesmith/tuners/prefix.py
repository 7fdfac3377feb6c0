"""Prefix tuning: trained keys and values before every sample, as PEFT has it (arXiv:2101.00190)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tunesmith.tuners.base import VirtualTokens

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


class PrefixTuner(VirtualTokens):
    Config = PrefixConfig
    what = "prefix tuning"

    def apply(self, model: nn.Module) -> None:
        """Freezes the model and gives it virtual tokens, drawn from torch's RNG.

        Raises:
            ConfigError: E233, the model has virtual tokens already, or can't have any.
        """
        from tunesmith.tuners import prompt_impl

        prompt_impl.apply_prefix(model, self.config)
