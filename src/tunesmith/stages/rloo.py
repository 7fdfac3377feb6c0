"""REINFORCE leave-one-out: an answer against the mean of the other answers to its prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tunesmith.losses import advantages
from tunesmith.stages import columns_impl as columns
from tunesmith.stages.grpo import GroupConfig, GrpoStage
from tunesmith.stages.rollout_impl import Round
from tunesmith.types import Batch, Loss, Term


@dataclass(frozen=True)
class RlooConfig(GroupConfig):
    """Whole answers as single actions, without a critic (arXiv:2402.14740). A step's batch size
    counts prompts."""

    kind: Literal["rloo"] = "rloo"
    """The stage's name."""
    num_generations: int = 4
    beta: float = 0.05
    """Weight of the KL to the model before training, taken off each answer's reward; 0: none."""
    normalize_advantages: bool = False
    """Bring the advantages of a round to mean 0 and variance 1."""
    epsilon: float = 0.2
    """How far the ratio of a whole answer to the sampling policy may fall, and rise."""


class RlooStage(GrpoStage):
    """Loss −min(ρ A, clip(ρ) A) of answers, ρ the ratio of a whole answer's probabilities."""

    Config = RlooConfig

    @property
    def needs_old(self) -> bool:
        return self.config.beta > 0 or super().needs_old

    def weigh(self, made: Round, rewards_PG: np.ndarray) -> None:
        """Takes the KL of each answer off its reward, then the others' mean."""
        if self.config.beta:
            kl_PG = made.columns["answer_kl"]
            rewards_PG = rewards_PG - self.config.beta * kl_PG
        found_PG = advantages.leave_one_out(rewards_PG)
        if self.config.normalize_advantages:
            found_PG = (found_PG - found_PG.mean()) / (found_PG.std(ddof=1) + advantages.TINY)
        made.columns["advantages"] = found_PG.astype(np.float32)

    def policy_loss(self, model: Any, batch: Batch) -> Loss:
        import torch

        from tunesmith.losses import policy

        tokens, _ = model.score(batch, temperature=self.config.temperature)
        example_S = columns.example_of(tokens, batch)
        logprobs_S, weights_S = tokens.logprobs_S, tokens.weights_S
        advantages_N = batch.extra["advantages"].flatten().double()
        # In float64: such sums are large, and their difference counts. TRL errs by 7e-6, float32
        # by 2e-5 (tests/parity/test_float64.py).
        wide_N = logprobs_S.new_zeros(len(advantages_N), dtype=torch.float64)
        total = lambda values_S: wide_N.index_add(0, example_S, values_S.double())
        old_S = logprobs_S.detach()
        if "old_logprobs" in batch.extra and self.rounds() != (1, 1):
            old_S = columns.on_tokens(batch, "old_logprobs", example_S, logprobs_S)
        found = policy.clipped(
            total(logprobs_S), total(old_S), advantages_N, self.config.epsilon, self._epsilon_high
        )
        ones_N = total(weights_S) / total(weights_S.ne(0)).clamp(min=1)
        over_answers = lambda values_N: Term((ones_N * values_N).sum(), "segments")
        metrics = {
            "clip_share": over_answers(found.clipped_S.double()),
            "ratio": over_answers(found.ratio_S.detach()),
        }
        terms = {"policy": over_answers(found.losses_S)}
        self.watch(model, found, ones_N)
        return Loss(terms, metrics | columns.answer_metrics(batch))
