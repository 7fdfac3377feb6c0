"""Group-relative policy optimisation: several answers to a prompt, each against the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tunesmith.losses import advantages
from tunesmith.stages import columns_impl as columns, rollout_impl as rollouts
from tunesmith.stages.rollout_impl import Answer, Round
from tunesmith.types import Batch, Loss, Term

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class GroupConfig(rollouts.RolloutConfig):
    """What stages are told that hold an answer against the others to its prompt."""

    num_generations: int = 8
    """Answers to each prompt, at least 2."""
    epsilon: float = 0.2
    """How far the ratio to the sampling policy may fall, and rise."""
    epsilon_high: float | None = None
    """How far it may rise, if not epsilon; DAPO has 0.28."""
    num_iterations: int = 1
    """Updates on each answer."""
    steps_per_generation: int = 1
    """Steps whose prompts are answered at once, with the same weights."""
    mask_truncated_completions: bool = False
    """Leave answers out of the loss that were cut at max_completion_length."""


@dataclass(frozen=True)
class GrpoConfig(GroupConfig):
    """Answers rewarded by functions, without a critic (arXiv:2402.03300). A step's batch size
    counts prompts."""

    kind: Literal["grpo"] = "grpo"
    """The stage's name."""
    loss_type: Literal["grpo", "dapo", "dr_grpo", "bnpo"] = "dapo"
    """What a step's token losses are divided by. grpo: each answer's length, then the number of
    answers; dapo, and bnpo, which is the same here: tokens of the step; dr_grpo:
    max_completion_length and the number of answers."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """Standard deviation that advantages are divided by; none is Dr. GRPO's."""
    beta: float = 0.0
    """Weight of the KL to the model before training; 0: no reference is computed."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """k3 is unbiased and never negative; k2 has the right gradient; k1 is for reading only, its
    gradient is zero in the mean."""
    use_bias_correction_kl: bool = True
    """Weigh the KL by the ratio, whose gradient then is that of the true KL (arXiv:2512.02556)."""


class GrpoStage(rollouts.RolloutStage):
    """The advantage of an answer is its reward against those of its group (section 4.1)."""

    Config: Any = GrpoConfig

    @property
    def answers_per_prompt(self) -> int:  # type: ignore[override]
        return self.config.num_generations

    @property
    def needs_reference(self) -> bool:  # type: ignore[override]
        return self.config.beta > 0

    @property
    def needs_old(self) -> bool:
        """Whether the policy of some update is not the one that sampled."""
        return max(self.rounds()) > 1

    def rounds(self) -> tuple[int, int]:
        return self.config.steps_per_generation, self.config.num_iterations

    def check(self, recipe: Any) -> None:
        """Refuses numbers that make no sense; what RLOO has too.

        Raises:
            ConfigError: C227, and what `rewards.check` raises.
        """
        super().check(recipe)
        config = self.config
        at_least = {"num_generations": 2, "num_iterations": 1, "steps_per_generation": 1}
        for name, least in at_least.items():
            value = getattr(config, name)
            columns.within(name, value, value >= least, f"at least {least}")
        columns.within("epsilon", config.epsilon, 0 < config.epsilon < 1, "above 0, below 1")
        high = self._epsilon_high
        columns.within("epsilon_high", high, high > 0, "above 0")
        columns.within("beta", config.beta, config.beta >= 0, "0 (off) or above")

    @property
    def _epsilon_high(self) -> float:
        high = self.config.epsilon_high
        return self.config.epsilon if high is None else high

    def advantages(self, rewards_PG: np.ndarray) -> np.ndarray:
        """How much better than its group each answer was, shape (P, G)."""
        return advantages.group_normalised(rewards_PG, self.config.scale_rewards)

    def learn(self, run: Any, made: Round, answers: list[Answer]) -> None:
        from tunesmith.stages import experience_impl as experience

        config, shape = self.config, (len(made.items), self.answers_per_prompt)
        scores = self.scores(answers)
        made.columns |= columns.columns_of(answers, scores, shape)
        if config.mask_truncated_completions:
            made.items = _masked(made.items, answers)
        if self.needs_old:
            made.columns["old_logprobs"] = experience.log_probabilities(
                run, made, config.temperature
            )
        if config.beta:
            reference = experience.reference_log_probabilities(run, made, config.temperature)
            made.columns["reference_logprobs"] = reference
        if {"old_logprobs", "reference_logprobs"} <= made.columns.keys():
            each = made.columns["old_logprobs"] - made.columns["reference_logprobs"]
            made.columns["answer_kl"] = each.sum(2)
        rewards_PG = scores.total_N.reshape(shape)
        self.weigh(made, rewards_PG)
        self.health.idle(run.step, float((np.ptp(rewards_PG, axis=1) == 0).mean()))
        length = float(np.mean([one.tokens for one in answers]))
        kl_PG = made.columns.get("answer_kl")
        self.health.round(run.step, length, None if kl_PG is None else float(kl_PG.mean()), None)

    def weigh(self, made: Round, rewards_PG: np.ndarray) -> None:
        """Puts the advantages into a round that has everything else."""
        made.columns["advantages"] = self.advantages(rewards_PG).astype(np.float32)

    def policy_loss(self, model: Any, batch: Batch) -> Loss:
        from tunesmith.losses import policy

        config = self.config
        tokens, _ = model.score(batch, temperature=config.temperature)
        logprobs_S, example_S = tokens.logprobs_S, columns.example_of(tokens, batch)
        column = lambda name: columns.on_tokens(batch, name, example_S, logprobs_S)
        old_S = column("old_logprobs") if "old_logprobs" in batch.extra else logprobs_S.detach()
        reach = config.epsilon, self._epsilon_high
        found = policy.clipped(logprobs_S, old_S, column("advantages"), *reach)
        share_S = self._share(tokens.weights_S.to(logprobs_S.dtype), example_S)
        unit = "tokens" if config.loss_type in ("dapo", "bnpo") else "segments"
        terms = {"policy": Term((share_S * found.losses_S).sum(), unit)}
        if config.beta:
            kl_S = policy.kl(logprobs_S, column("reference_logprobs"), config.kl_estimator)
            if config.use_bias_correction_kl:
                kl_S = kl_S * found.ratio_S
            terms["kl"] = Term((share_S * kl_S).sum(), unit, config.beta)
        over_tokens = lambda values_S: Term((tokens.weights_S * values_S).sum().detach(), "tokens")
        self.watch(model, found, tokens.weights_S)
        metrics = {
            "clip_share": over_tokens(found.clipped_S),
            "ratio": over_tokens(found.ratio_S),
            "surprise": over_tokens(-logprobs_S),
        }
        return Loss(terms, metrics | columns.answer_metrics(batch))

    def _share(self, weights_S: Tensor, example_S: Tensor) -> Tensor:
        """What a token counts before the step's units divide it, shape (S,)."""
        if self.config.loss_type == "grpo":
            return weights_S / _lengths(example_S).to(weights_S.dtype)
        if self.config.loss_type == "dr_grpo":
            return weights_S / self.config.max_completion_length
        return weights_S


def _lengths(example_S: Tensor) -> Tensor:
    """Tokens of the answer that each position belongs to, shape (S,)."""
    return example_S.bincount()[example_S]


def _masked(items: list[Any], answers: list[Answer]) -> list[Any]:
    """Items whose answers that were cut have no weight."""
    left = iter(answers)
    return [
        tuple(e if next(left).finished else e._replace(weights_T=e.weights_T * 0) for e in item)
        for item in items
    ]
