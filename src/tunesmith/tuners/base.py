"""What tuners share: building one by name, and parameter groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunesmith import registry
from tunesmith.types import Tuner

if TYPE_CHECKING:
    from torch import nn


def build(config: Any) -> Tuner:
    """The tuner that `config.kind` names."""
    return registry.load("tuners", config.kind).build(config)


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trained parameters in two groups: matrices decay; biases, norms and other vectors do not.

    Each group also lists `names`, in the order of its `params`.
    """
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = []
    for decayed in (True, False):
        chosen = [(name, p) for name, p in trained if (p.dim() >= 2) == decayed]
        if chosen:
            groups.append(
                {
                    "params": [p for _, p in chosen],
                    "names": [name for name, _ in chosen],
                    "weight_decay": weight_decay if decayed else 0.0,
                }
            )
    return groups
