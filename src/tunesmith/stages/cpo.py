"""Contrastive preference optimisation: DPO under a uniform reference, with a token loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tunesmith.stages import pairs_impl as pairs
from tunesmith.types import Batch, Loss, Term


@dataclass(frozen=True)
class CpoConfig:
    """Preference pairs without a reference, held by a token loss (arXiv:2401.08417)."""

    kind: Literal["cpo"] = "cpo"
    """The stage's name."""
    beta: float = 0.1
    """Scale of the difference of log-probabilities."""
    cpo_alpha: float = 1.0
    """Weight of the chosen answers' token loss."""
    label_smoothing: float = 0.0
    """Share of pairs believed to be labelled the wrong way round."""


class CpoStage(pairs.ReferenceFree):
    """Sums of log-probabilities are compared as they are."""

    Config = CpoConfig

    def loss(self, model: Any, batch: Batch) -> Loss:
        from tunesmith.losses import preference

        config = self.config
        tokens = model(batch)
        logps, _ = pairs.log_probabilities(tokens, batch)
        losses_P = preference.cpo(logps.margin_P, config.beta, config.label_smoothing)
        terms = {"cpo": Term(losses_P.sum(), "rows")}
        if config.cpo_alpha:
            terms["nll"] = Term(pairs.chosen_nll(tokens, batch), "first_tokens", config.cpo_alpha)
        rewards = pairs.Sides(*(config.beta * side_P for side_P in logps))
        return pairs.told(terms, rewards, logps)
