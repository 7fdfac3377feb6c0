"""One process on one device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer


@dataclass(frozen=True)
class SingleConfig:
    """One process; nothing to configure."""

    kind: Literal["single"] = "single"
    """The backend's name."""


class SingleParallel:
    """Every promise of `types.Parallel` kept trivially: the world is 1."""

    Config = SingleConfig
    rank = 0
    world = 1

    def __init__(self, device: Any = None):
        import torch

        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device)

    @classmethod
    def build(cls, config: SingleConfig, device: Any = None) -> SingleParallel:
        return cls(device)

    def wrap(self, model: nn.Module) -> nn.Module:
        return model.to(self.device)

    def accumulate(self, model: nn.Module, last: bool) -> AbstractContextManager[None]:
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def clip(self, parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
        """Scales the gradients to a global 2-norm of at most `max_norm`; 0 leaves them alone.

        Returns:
            The norm before clipping, a tensor of one element.
        """
        import torch

        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if max_norm > 0:
            torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
        return norm

    def step(self, optimizer: Optimizer) -> None:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        return dict(values)

    def barrier(self) -> None:
        """Nobody to wait for."""
