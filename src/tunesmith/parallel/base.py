"""What backends share: building one by name."""

from __future__ import annotations

from typing import Any

from tunesmith import registry
from tunesmith.types import Parallel


def build(config: Any, device: Any = None) -> Parallel:
    """The backend that `config.kind` names.

    Args:
        config: The backend's frozen Config.
        device: Where to compute; default: the backend's own choice.
    """
    return registry.load("parallel", config.kind).build(config, device)
