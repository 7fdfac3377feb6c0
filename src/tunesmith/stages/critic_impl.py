"""PPO's critic: what an answer is still expected to earn, before each of its tokens.

It is linear in the policy's hidden state and in the share of the longest answer that is left: an
answer ends at `max_completion_length` at the latest, which a hidden state hardly knows, so the
time left is part of the state (arXiv:1712.00378). Legend: `S` supervised positions, `D` width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Critic(nn.Module):
    """A head of D + 2 numbers, all zero at first: it expects nothing before it has seen a reward.

    Args:
        width: D.
        rate: How many times faster than the rest constant and time learn, which follow the mean of
            the returns. AdamW moves a number by about its learning rate, whatever the gradient's
            scale; so what is used is the parameters times `rate`, and their gradient is that of
            what is used: a clip by norm sees no difference.
    """

    def __init__(self, width: int, rate: float, *, dtype: torch.dtype, device: torch.device):
        super().__init__()
        self.rate = rate
        self.weight = nn.Parameter(torch.zeros(width, dtype=dtype, device=device))
        self.time = nn.Parameter(torch.zeros(2, dtype=dtype, device=device))
        """A constant, and what a whole answer's length is worth."""

    def forward(self, hidden_SD: Tensor, left_S: Tensor) -> Tensor:
        """Expected returns, shape (S,).

        Args:
            hidden_SD: The states that predict the tokens.
            left_S: Share of the longest answer that is left, 1 before its first token.
        """
        dtype = self.weight.dtype
        time = self._grown(self.time)
        return hidden_SD.to(dtype) @ self.weight + time[0] + time[1] * left_S.to(dtype)

    def _grown(self, parameter: Tensor) -> Tensor:
        """Times the rate in value, as it is in gradient."""
        return parameter + (self.rate - 1) * parameter.detach()

    def tensors(self) -> dict[str, Tensor]:
        """What multiplies state, constant and time, the rate included; for a file."""
        found = {"value.weight": self.weight[None], "value.time": self._grown(self.time)}
        return {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}
