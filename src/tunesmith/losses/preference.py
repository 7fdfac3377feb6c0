"""Losses on pairs of a better and a worse answer; pure functions of summed log-probabilities.

Legend: `P` pairs. π the model, ref the model before training, c the chosen answer, r the rejected.
Every function returns one loss a pair, never a mean: the loop divides.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

LOSS_TYPES = ("sigmoid", "hinge", "ipo", "robust")


def dpo(margin_P: Tensor, beta: float, loss_type: str, smoothing: float = 0.0) -> Tensor:
    """Direct preference optimisation, without a reward model.

    Args:
        margin_P: log π(c)/ref(c) − log π(r)/ref(r), shape (P,); for `ipo` of means over tokens.
        beta: Strength of the pull towards the reference; the larger, the nearer.
        loss_type: `sigmoid`: −log σ(β·m), with label smoothing ε as cDPO (arXiv:2305.18290, eq. 7;
            Mitchell 2023); `robust`: unbiased under labels flipped with probability ε
            (arXiv:2403.00409, eq. 12); `hinge`: max(0, 1 − β·m) (SLiC, arXiv:2305.10425);
            `ipo`: (m − 1/2β)² (arXiv:2310.12036, eq. 17).
        smoothing: ε, the share of pairs believed to be labelled the wrong way round.
    """
    score_P = beta * margin_P
    if loss_type == "sigmoid":
        return -(1 - smoothing) * logsigmoid(score_P) - smoothing * logsigmoid(-score_P)
    if loss_type == "robust":
        kept, flipped = -(1 - smoothing) * logsigmoid(score_P), smoothing * logsigmoid(-score_P)
        return (kept + flipped) / (1 - 2 * smoothing)
    if loss_type == "hinge":
        return torch.relu(1 - score_P)
    return (margin_P - 1 / (2 * beta)) ** 2


def simpo(chosen_P: Tensor, rejected_P: Tensor, beta: float, gamma_ratio: float) -> Tensor:
    """−log σ(β·(c̄ − r̄) − γ) on mean log-probabilities, no reference (arXiv:2405.14734, eq. 6).

    Args:
        chosen_P: Mean log-probability a token of the chosen answers, shape (P,).
        rejected_P: Likewise of the rejected.
        beta: β; the paper uses 2 to 2.5.
        gamma_ratio: γ/β, the margin that is asked for.
    """
    return -logsigmoid(beta * (chosen_P - rejected_P - gamma_ratio))


def cpo(margin_P: Tensor, beta: float, smoothing: float = 0.0) -> Tensor:
    """−log σ(β·(log π(c) − log π(r))): DPO under a uniform reference (arXiv:2401.08417, eq. 4)."""
    return dpo(margin_P, beta, "sigmoid", smoothing)


def odds_ratio(chosen_P: Tensor, rejected_P: Tensor) -> Tensor:
    """−log σ(log odds(c) − log odds(r)), odds = p/(1 − p) (ORPO, arXiv:2403.07691, eq. 7).

    Args:
        chosen_P: Mean log-probability a token of the chosen answers, shape (P,).
        rejected_P: Likewise of the rejected.
    """
    return -logsigmoid(_log_odds(chosen_P) - _log_odds(rejected_P))


def kto(
    ratio_N: Tensor, desirable_N: Tensor, kl: Tensor, beta: float, weights: tuple[float, float]
) -> Tensor:
    """Kahneman–Tversky optimisation of single answers with a verdict (arXiv:2402.01306, eq. 8).

    Args:
        ratio_N: log π(y)/ref(y) of each answer, shape (N,).
        desirable_N: bool, its verdict.
        kl: The reference point z₀ ≥ 0, without gradient.
        beta: Risk aversion.
        weights: λ of desirable and of undesirable answers.
    """
    gain_N = beta * (ratio_N - kl)
    good_N = weights[0] * (1 - torch.sigmoid(gain_N))
    bad_N = weights[1] * (1 - torch.sigmoid(-gain_N))
    return torch.where(desirable_N, good_N, bad_N)


def _log_odds(logprob_P: Tensor) -> Tensor:
    """log p − log(1 − p), exact also where p is near 1."""
    return logprob_P - torch.log(-torch.expm1(logprob_P.clamp(max=-1e-7)))
