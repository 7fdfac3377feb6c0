"""Full fine-tuning: every parameter is trained."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tunesmith.tuners.base import decay_groups

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class FullConfig:
    """Train every parameter."""

    kind: Literal["full"] = "full"
    """The tuner's name."""


class FullTuner:
    Config = FullConfig
    packable = True
    mergeable = False

    @classmethod
    def build(cls, config: FullConfig) -> FullTuner:
        return cls()

    def apply(self, model: nn.Module) -> None:
        """Makes every parameter trained, in float32 if the model keeps master weights."""
        from tunesmith.tuners.full_impl import train_all

        train_all(model)

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
        """The model as it was when `full_impl.keep_reference` copied it."""
        from tunesmith.tuners.full_impl import reference

        return reference(model)

    def save(self, model: nn.Module, path: Path) -> None:
        """Writes config.json and sharded safetensors, in the type the weights were loaded in."""
        from tunesmith.tuners.full_impl import save_weights

        save_weights(model, path)

    def merge(self, model: nn.Module) -> None:
        """Nothing to merge: the weights themselves were trained."""
