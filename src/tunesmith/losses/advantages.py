"""Advantages: how much better an answer, or a token of it, was than expected.

Legend: `P` prompts, `G` answers to each, `N` answers, `A` tokens of the longest answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Scale = Literal["group", "batch", "none"]
TINY = 1e-4
"""Added to a standard deviation, as TRL's GRPOTrainer does."""


def group_normalised(rewards_PG: np.ndarray, scale: Scale = "group") -> np.ndarray:
    """Rewards less their group's mean, over a standard deviation; shape (P, G).

    Source: GRPO, arXiv:2402.03300, section 4.1.2; `none` is Dr. GRPO's, arXiv:2503.20783.

    Args:
        rewards_PG: Rewards of the answers to each prompt, at least two each.
        scale: Whose standard deviation (with G − 1, or N − 1): the group's, the batch's, or 1.
    """
    centred_PG = rewards_PG - rewards_PG.mean(axis=1, keepdims=True)
    if scale == "none":
        return centred_PG
    if scale == "batch":
        return centred_PG / (rewards_PG.std(ddof=1) + TINY)
    return centred_PG / (rewards_PG.std(axis=1, ddof=1, keepdims=True) + TINY)


def leave_one_out(rewards_PG: np.ndarray) -> np.ndarray:
    """Rewards less the mean of the group's other rewards (RLOO, arXiv:2402.14740, eq. 9)."""
    G = rewards_PG.shape[1]
    others_PG = (rewards_PG.sum(axis=1, keepdims=True) - rewards_PG) / (G - 1)
    return rewards_PG - others_PG


def gae(
    rewards_NA: np.ndarray, values_NA: np.ndarray, mask_NA: np.ndarray, gamma: float, lam: float
) -> tuple[np.ndarray, np.ndarray]:
    """Generalised advantage estimates and returns, 0 outside the mask; shape (N, A) each.

    δ_t = r_t + γ V_{t+1} − V_t and A_t = δ_t + γ λ A_{t+1}; after the last token V is 0. Returns
    are A + V. Source: arXiv:1506.02438, eq. 16.

    Args:
        rewards_NA: Reward of each token.
        values_NA: What the critic expected before it.
        mask_NA: bool, which places hold tokens; each row's come first.
        gamma: Discount.
        lam: 0 trusts the critic, 1 what was seen.
    """
    rewards_NA, values_NA = rewards_NA * mask_NA, values_NA * mask_NA
    advantages_NA = np.zeros_like(values_NA)
    following_N = np.zeros(len(values_NA), values_NA.dtype)
    next_value_N = np.zeros_like(following_N)
    for t in reversed(range(values_NA.shape[1])):
        delta_N = rewards_NA[:, t] + gamma * next_value_N - values_NA[:, t]
        following_N = (delta_N + gamma * lam * following_N) * mask_NA[:, t]
        next_value_N = values_NA[:, t]
        advantages_NA[:, t] = following_N
    return advantages_NA, (advantages_NA + values_NA) * mask_NA


def whiten(values_NA: np.ndarray, mask_NA: np.ndarray) -> np.ndarray:
    """Values with mean 0 and variance 1 over the mask, 0 outside of it."""
    chosen = values_NA[mask_NA]
    if not len(chosen):
        return values_NA
    return (values_NA - chosen.mean()) / np.sqrt(chosen.var() + 1e-8) * mask_NA


def explained_variance(values: np.ndarray, returns: np.ndarray) -> float:
    """1 − Var(returns − values) / Var(returns): 1 is a perfect critic, 0 one that knows nothing."""
    spread = float(returns.var())
    return 0.0 if spread == 0 else 1.0 - float((returns - values).var()) / spread


@dataclass
class KlControl:
    """The weight of the KL penalty, pulled towards a target (arXiv:1909.08593, section 2.2)."""

    value: float
    target: float | None = None
    """KL of an answer to its reference, in nats; None: the weight stays fixed."""
    horizon: float = 10_000.0
    """Answers over which a relative error of 1 doubles the weight, about."""

    def update(self, kl: float, answers: int) -> None:
        """β ← β · (1 + clip(KL / target − 1, ±0.2) · n / horizon)."""
        if self.target is None:
            return
        error = min(max(kl / self.target - 1.0, -0.2), 0.2)
        self.value *= 1.0 + error * answers / self.horizon


@dataclass
class Moments:
    """Mean and variance of all scores so far (Chan's update), to normalise them by."""

    count: float = 0.0
    mean: float = 0.0
    spread: float = 0.0
    """Σ (x − mean)²."""

    def update(self, values: np.ndarray) -> None:
        """Takes more values in."""
        added = float(len(values))
        if not added:
            return
        shift = float(values.mean()) - self.mean
        total = self.count + added
        between = shift**2 * self.count * added / total
        self.spread += float(values.var()) * added + between
        self.mean += shift * added / total
        self.count = total

    @property
    def std(self) -> float:
        """Standard deviation; 1 while there is none."""
        found = (self.spread / self.count) ** 0.5 if self.count > 1 else 0.0
        return found or 1.0
