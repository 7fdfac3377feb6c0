"""Dynamic loss scaling for float16: keeps small gradients from vanishing and survives overflow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from tunesmith.errors import RunError

INITIAL = 2.0**16
GROWTH_INTERVAL = 2000
MOST_IN_A_ROW = 20


class LossScale:
    """The factor on the loss. Doubles after 2000 finite steps, halves on overflow.

    The scale is always a power of two, so scaling and unscaling round nothing. With
    `enabled=False` (float32, bfloat16) it stays 1 and every method is free.

    Args:
        enabled: True for float16.
    """

    def __init__(self, enabled: bool = False):
        self.enabled = enabled
        self.value = INITIAL if enabled else 1.0
        self._good = 0
        self._bad = 0

    def unscale(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Divides the gradients by the scale, in place."""
        if not self.enabled:
            return
        grads = [p.grad for p in parameters if p.grad is not None]
        if grads:
            torch._foreach_mul_(grads, 1.0 / self.value)

    def update(self, *, finite: bool) -> None:
        """Takes note of a step; `finite` says whether its gradient norm was.

        Raises:
            RunError: R210, twenty steps in a row overflowed.
        """
        if not self.enabled:
            return
        if finite:
            self._bad = 0
            self._good += 1
            if self._good % GROWTH_INTERVAL == 0:
                self.value *= 2.0
            return
        self._good = 0
        self._bad += 1
        self.value *= 0.5
        if self._bad >= MOST_IN_A_ROW:
            raise RunError(
                "R210",
                f"the gradients of {self._bad} steps in a row were not finite in float16",
                why=f"The loss scale fell to {self.value:g} and no step could be taken.",
                fix="set train.dtype: bfloat16 or float32, or lower optim.learning_rate",
            )

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"value": self.value, "good": self._good, "bad": self._bad}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes back to a saved scale; ignored where the run needs none."""
        if self.enabled:
            self.value, self._good, self._bad = state["value"], state["good"], state["bad"]
