"""Losses of policy gradients on sampled tokens: clipped ratios, KL estimates, values, entropy.

Legend: `S` supervised positions, `V` vocabulary, `D` model width, `C` rows of one chunk.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tunesmith.losses.tokens import Head, chunk_rows, differentiable_logits

Estimator = Literal["k1", "k2", "k3"]
LARGEST = 20.0
"""Log-ratios are cut here before exp: e²⁰ is far beyond any clip, and finite."""


class Clipped(NamedTuple):
    """What a clipped objective gives; shape (S,) each."""

    losses_S: Tensor
    clipped_S: Tensor
    """bool, where the clip took the gradient away."""
    ratio_S: Tensor
    """π/π_old, with gradient."""


def clipped(
    logprobs_S: Tensor, old_S: Tensor, advantages_S: Tensor, low: float, high: float
) -> Clipped:
    """−min(ρ A, clip(ρ, 1 − low, 1 + high) A) with ρ = π/π_old (PPO, arXiv:1707.06347, eq. 7).

    Args:
        logprobs_S: Log-probabilities now, with gradient.
        old_S: Those of the policy that wrote the tokens.
        advantages_S: How much better than expected each was.
        low: How far the ratio may fall.
        high: How far it may rise (DAPO, arXiv:2503.14476, section 3.1, has it larger).
    """
    ratio_S = (logprobs_S - old_S).clamp(-LARGEST, LARGEST).exp()
    plain_S = ratio_S * advantages_S
    cut_S = ratio_S.clamp(1 - low, 1 + high) * advantages_S
    return Clipped(-torch.minimum(plain_S, cut_S), cut_S < plain_S, ratio_S)


def clipped_values(
    values_S: Tensor, old_S: Tensor, returns_S: Tensor, reach: float | None
) -> Tensor:
    """½ max((V − R)², (clip(V, V_old ± reach) − R)²), as in TRL's PPO; None: just ½ (V − R)²."""
    if reach is None:
        return 0.5 * (values_S - returns_S) ** 2
    near_S = torch.minimum(torch.maximum(values_S, old_S - reach), old_S + reach)
    return 0.5 * torch.maximum((values_S - returns_S) ** 2, (near_S - returns_S) ** 2)


def kl(logprobs_S: Tensor, reference_S: Tensor, estimator: Estimator) -> Tensor:
    """Estimates of KL(π ‖ reference) at tokens drawn from π (joschu.net/blog/kl-approx.html).

    With r = log ref − log π: k1 = −r (unbiased, may be negative), k2 = r²/2 (biased, little
    variance, the right gradient), k3 = eʳ − 1 − r (unbiased, never negative).
    """
    ratio_S = reference_S - logprobs_S
    if estimator == "k1":
        return -ratio_S
    if estimator == "k2":
        return 0.5 * ratio_S**2
    return ratio_S.clamp(-LARGEST, LARGEST).exp() - 1 - ratio_S


def entropy(hidden_SD: Tensor, head: Head, temperature: float = 1.0) -> Tensor:
    """Entropy of the next-token distribution at each position, with gradient; shape (S,).

    Logits are made in chunks and again in the backward pass, so they are never kept.
    """
    rows = chunk_rows(head.weight_VD)
    chunks = [
        checkpoint(_entropy, part_CD, head, temperature, use_reentrant=False)
        for part_CD in hidden_SD.split(rows)
    ]
    return torch.cat(chunks) if chunks else hidden_SD.new_zeros(0)


def _entropy(hidden_CD: Tensor, head: Head, temperature: float) -> Tensor:
    logprobs_CV = torch.log_softmax(differentiable_logits(hidden_CD, head) / temperature, dim=-1)
    return -(logprobs_CV.exp() * logprobs_CV).sum(-1)
