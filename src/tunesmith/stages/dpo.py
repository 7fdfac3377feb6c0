"""Direct preference optimisation: pairs of answers, pulled apart, near the model it began as."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from tunesmith.errors import ConfigError
from tunesmith.stages import pairs_impl as pairs
from tunesmith.types import Batch, Loss, Run, Term


@dataclass(frozen=True)
class DpoConfig:
    """Preference pairs without a reward model (arXiv:2305.18290)."""

    kind: Literal["dpo"] = "dpo"
    """The stage's name."""
    beta: float = 0.1
    """Strength of the pull towards the reference, the model as it is before training."""
    loss_type: Literal["sigmoid", "hinge", "ipo", "robust"] = "sigmoid"
    """sigmoid (DPO), hinge (SLiC), ipo (on means over tokens), robust (to wrong labels)."""
    label_smoothing: float = 0.0
    """Share of pairs believed to be labelled the wrong way round; for sigmoid and robust."""
    rpo_alpha: float = 0.0
    """Weight of the chosen answers' token loss beside it (RPO, arXiv:2404.19733); 0 is off."""


class DpoStage(pairs.PairStage):
    """A pair is one item of two examples; the reference is computed once, before training."""

    Config = DpoConfig

    def check(self, recipe: Any) -> None:
        super().check(recipe)
        if self.config.label_smoothing and self.config.loss_type not in ("sigmoid", "robust"):
            raise ConfigError(
                "C185",
                f"label_smoothing has no meaning for loss_type {self.config.loss_type}",
                where="stage.label_smoothing",
                fix="use 0 (off), or loss_type sigmoid or robust",
            )

    def prepare(self, run: Run, say: Callable[[str], None]) -> None:
        """Computes, or finds, the reference's log-probabilities."""
        from tunesmith.stages.reference_impl import attach

        attach(run, say)

    def loss(self, model: Any, batch: Batch) -> Loss:
        from tunesmith.losses import preference

        config = self.config
        tokens = model(batch)
        logps, counts = pairs.log_probabilities(tokens, batch)
        ratios = logps.minus(pairs.reference(batch))
        compared = ratios.over(counts) if config.loss_type == "ipo" else ratios
        losses_P = preference.dpo(
            compared.margin_P, config.beta, config.loss_type, config.label_smoothing
        )
        terms = {"dpo": Term(losses_P.sum(), "rows")}
        if config.rpo_alpha:
            terms["nll"] = Term(pairs.chosen_nll(tokens, batch), "first_tokens", config.rpo_alpha)
        rewards = pairs.Sides(*(config.beta * side_P for side_P in ratios))
        return pairs.told(terms, rewards, logps, ratios)
