"""Simple preference optimisation: mean log-probabilities and a margin, without a reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tunesmith.stages import pairs_impl as pairs
from tunesmith.types import Batch, Loss, Term


@dataclass(frozen=True)
class SimpoConfig:
    """Preference pairs by mean log-probability a token (arXiv:2405.14734)."""

    kind: Literal["simpo"] = "simpo"
    """The stage's name."""
    beta: float = 2.0
    """Scale of the difference of mean log-probabilities; the paper uses 2 to 2.5."""
    gamma_beta_ratio: float = 0.5
    """Margin asked of that difference, γ/β; the paper uses 0.3 to 0.5."""
    sft_weight: float = 0.0
    """Weight of the chosen answers' token loss beside it; 0 is off."""


class SimpoStage(pairs.ReferenceFree):
    """What generation maximises is what is compared: the mean log-probability a token."""

    Config = SimpoConfig

    def loss(self, model: Any, batch: Batch) -> Loss:
        from tunesmith.losses import preference

        config = self.config
        tokens = model(batch)
        logps, counts = pairs.log_probabilities(tokens, batch)
        means = logps.over(counts)
        losses_P = preference.simpo(
            means.chosen_P, means.rejected_P, config.beta, config.gamma_beta_ratio
        )
        terms = {"simpo": Term(losses_P.sum(), "rows")}
        if config.sft_weight:
            terms["nll"] = Term(pairs.chosen_nll(tokens, batch), "first_tokens", config.sft_weight)
        rewards = pairs.Sides(*(config.beta * side_P for side_P in means))
        return pairs.told(terms, rewards, logps)
