"""PPO's critic: what an answer is still expected to earn, before each of its tokens.

It is linear in the policy's hidden state, in the sum of the answer's states so far, and in the
share of the longest answer that is left: what happened earlier and how soon an answer must end are
hardly in one state of a small model (docs/adr/0020). After each round it is fitted to what its
answers earned; the loss of the values teaches it, and the policy's body, in between.

Legend: `N` answers, `A` tokens of the longest answer, `S` supervised positions, `D` width, `K`
tokens of a round, `F` = 2 D + 2 features.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

FREE = 0.01
"""Constant and time are held so much less firmly than the rest: they follow rising rewards."""
BLOCK = 8
"""Answers whose features are made at once: they are four times as large as the states."""


class Critic(nn.Module):
    """A head of F numbers, all zero at first: it expects nothing before it has seen a reward."""

    def __init__(self, width: int, longest: int, *, dtype: torch.dtype, device: torch.device):
        super().__init__()
        self.longest = longest
        zeros = lambda size: nn.Parameter(torch.zeros(size, dtype=dtype, device=device))
        self.weight = zeros(width)
        self.past = zeros(width)
        """What multiplies the sum of the states so far, over the longest answer's length."""
        self.time = zeros(2)
        """A constant, and what a whole answer's length is worth."""

    def forward(self, hidden_SD: Tensor, example_S: Tensor) -> Tensor:
        """Expected returns, shape (S,).

        Args:
            hidden_SD: The states that predict the tokens.
            example_S: The answer that each belongs to, ascending.
        """
        hidden_SD = hidden_SD.to(self.weight.dtype)
        first_S = torch.searchsorted(example_S, example_S)
        at_S = torch.arange(len(example_S), device=example_S.device)
        left_S = 1.0 - (at_S - first_S).to(hidden_SD) / self.longest
        each_S = (hidden_SD @ self.past).double()  # answers lie end to end: sums of all, less
        so_far_S = each_S.cumsum(0)  # what came before the answer
        past_S = (so_far_S - (so_far_S - each_S)[first_S]).to(hidden_SD) / self.longest
        return hidden_SD @ self.weight + past_S + self.time[0] + self.time[1] * left_S

    @torch.no_grad()
    def fit(
        self, hidden_NAD: np.ndarray, mask_NA: np.ndarray, returns_NA: np.ndarray, pull: float
    ) -> None:
        """Least squares on a round, held to the head of the rounds before.

        Minimises Σ (x w − R)² + pull · (F / N) · K · Σ s² (w − w₀)², s the root mean square of a
        feature and w₀ the head as it is: the steps of a proximal method, so that nothing of
        earlier rounds is kept but the head itself. F / N because the tokens of an answer share what
        it earns: an answer is one observation, of which F features share the explanation.

        Args:
            hidden_NAD: The states that predict the tokens of a round.
            mask_NA: Which places hold tokens; each row's come first.
            returns_NA: What was earned from each token on.
            pull: How firmly the head is held.
        """
        parameters = (self.weight, self.past, self.time)
        head_F = torch.cat([p.double().cpu() for p in parameters]).numpy()
        squares_FF, slope_F = np.zeros((len(head_F), len(head_F))), np.zeros(len(head_F))
        for start in range(0, len(mask_NA), BLOCK):
            part = slice(start, start + BLOCK)
            known_KF = features(hidden_NAD[part], mask_NA[part], self.longest)
            squares_FF += known_KF.T @ known_KF
            slope_F += known_KF.T @ (returns_NA[part][mask_NA[part]] - known_KF @ head_F)
        held_F = pull * len(head_F) / mask_NA.any(1).sum() * np.diag(squares_FF)
        held_F[-2:] *= FREE
        scale_F = np.where(held_F > 0, held_F, 1.0) ** -0.5  # makes the pull the unit matrix
        scaled_FF = squares_FF * np.outer(scale_F, scale_F) + np.eye(len(head_F))
        moved_F = np.linalg.solve(scaled_FF, scale_F * slope_F) * scale_F
        parts = torch.from_numpy(head_F + moved_F).split([len(p) for p in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.copy_(part)

    def expected(self, hidden_NAD: np.ndarray, mask_NA: np.ndarray) -> np.ndarray:
        """Expected returns of a round's tokens, float32, shape (N, A), 0 where there is none."""
        one, past, time = (
            p.detach().float().cpu().numpy() for p in (self.weight, self.past, self.time)
        )
        so_far_NA = ((hidden_NAD @ past) * mask_NA).cumsum(1, dtype=np.float64) / self.longest
        left_A = 1.0 - np.arange(mask_NA.shape[1]) / self.longest
        values_NA = hidden_NAD @ one + so_far_NA + time[0] + time[1] * left_A
        return (values_NA * mask_NA).astype(np.float32)

    def tensors(self) -> dict[str, Tensor]:
        """What multiplies state, sum of states, constant and time; for a file."""
        found = {
            "value.weight": self.weight[None],
            "value.past": self.past[None],
            "value.time": self.time,
        }
        return {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}


def features(hidden_NAD: np.ndarray, mask_NA: np.ndarray, longest: int) -> np.ndarray:
    """What the head multiplies, for the tokens under the mask; float64, shape (K, F)."""
    hidden_NAD = hidden_NAD * mask_NA[..., None].astype(np.float64)
    left_A = 1.0 - np.arange(mask_NA.shape[1]) / longest
    left_NA = np.broadcast_to(left_A, mask_NA.shape)
    time_NA2 = np.stack([np.ones(mask_NA.shape), left_NA], axis=-1)
    return np.concatenate([hidden_NAD, hidden_NAD.cumsum(1) / longest, time_NA2], -1)[mask_NA]
