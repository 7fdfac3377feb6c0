"""Partial training: the last or first layers, or named modules; all else is frozen."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tunesmith.tuners.base import decay_groups

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class FreezeConfig:
    """Train some layers whole."""

    kind: Literal["freeze"] = "freeze"
    """The tuner's name."""
    num_layers: int = 2
    """Train the last so many layers; negative: the first so many; 0: only `modules`."""
    modules: tuple[str, ...] = ()
    """Names of further modules to train, such as [lm_head, norm]."""


class FreezeTuner:
    Config = FreezeConfig
    packable = True
    mergeable = False

    def __init__(self, config: FreezeConfig):
        self.config = config

    @classmethod
    def build(cls, config: FreezeConfig) -> FreezeTuner:
        return cls(config)

    def apply(self, model: nn.Module) -> None:
        """Freezes all but the chosen layers and modules.

        Raises:
            ConfigError: C173, more layers than there are; C172, no such module; C174, nothing
                is left to train.
        """
        from tunesmith.tuners.freeze_impl import train_some

        train_some(model, self.config)

    def load(self, model: nn.Module, path: Path) -> None:
        from tunesmith.tuners.full_impl import load_weights

        load_weights(model, path)

    def parameter_groups(self, model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
        return decay_groups(model, weight_decay)

    def keep_reference(self, model: nn.Module) -> None:
        """Copies the trained weights as they are now, for `reference`."""
        from tunesmith.tuners.full_impl import keep_reference

        keep_reference(model)

    def reference(self, model: nn.Module) -> AbstractContextManager[None]:
        """The model as it was when `full_impl.keep_reference` copied its trained weights."""
        from tunesmith.tuners.full_impl import reference

        return reference(model)

    def save(self, model: nn.Module, path: Path) -> None:
        """Writes the whole model: config.json and sharded safetensors."""
        from tunesmith.tuners.full_impl import save_weights

        save_weights(model, path)

    def merge(self, model: nn.Module) -> None:
        """Nothing to merge: the weights themselves were trained."""
