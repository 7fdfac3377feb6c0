"""Odds-ratio preference optimisation: fine-tuning and preference in one, without a reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tunesmith.stages import pairs_impl as pairs
from tunesmith.types import Batch, Loss, Term


@dataclass(frozen=True)
class OrpoConfig:
    """The chosen answers are trained, and made likelier than the rejected (arXiv:2403.07691)."""

    kind: Literal["orpo"] = "orpo"
    """The stage's name."""
    beta: float = 0.1
    """Weight of the odds ratio beside the token loss; λ of the paper."""


class OrpoStage(pairs.ReferenceFree):
    """Token loss of the chosen answers, plus the odds ratio of mean probabilities."""

    Config = OrpoConfig

    def loss(self, model: Any, batch: Batch) -> Loss:
        from tunesmith.losses import preference

        config = self.config
        tokens = model(batch)
        logps, counts = pairs.log_probabilities(tokens, batch)
        means = logps.over(counts)
        ratio_P = preference.odds_ratio(means.chosen_P, means.rejected_P)
        terms = {
            "nll": Term(pairs.chosen_nll(tokens, batch), "first_tokens"),
            "odds_ratio": Term(ratio_P.sum(), "rows", config.beta),
        }
        rewards = pairs.Sides(*(config.beta * side_P for side_P in means))
        return pairs.told(terms, rewards, logps)
