"""Proximal policy optimisation: a policy, a critic on its own hidden states, and a KL leash."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tunesmith.losses import advantages
from tunesmith.stages import columns_impl as columns, rollout_impl as rollouts
from tunesmith.stages.rollout_impl import Answer, Round
from tunesmith.types import Batch, Loss, Parts, Term

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tunesmith.stages.critic_impl import Critic


@dataclass(frozen=True)
class PpoConfig(rollouts.RolloutConfig):
    """One answer a prompt, every token weighed by a critic (arXiv:1707.06347, 2203.02155). A
    step's batch size counts prompts."""

    kind: Literal["ppo"] = "ppo"
    """The stage's name."""
    num_ppo_epochs: int = 4
    """Passes over the answers of a round."""
    num_mini_batches: int = 1
    """Steps whose prompts are answered at once; each pass makes so many updates."""
    kl_coef: float = 0.05
    """Weight of the KL to the model before training, in each token's reward; 0: none."""
    kl_target: float | None = None
    """KL of an answer, in nats, that kl_coef is steered towards; default: kl_coef stays."""
    kl_horizon: float = 10_000.0
    """Answers over which kl_coef follows."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k1"
    """Estimate of a token's KL in its reward; k1 is unbiased."""
    gamma: float = 1.0
    """Discount of later rewards."""
    lam: float = 0.95
    """GAE: 0 trusts the critic, 1 what was seen."""
    cliprange: float = 0.2
    """How far the ratio to the sampling policy may go."""
    cliprange_value: float | None = None
    """How far a value may go from what it was at a round's begin; null: as its error says."""
    vf_coef: float = 0.1
    """Weight of the critic's loss, which reaches the policy's body too."""
    critic_pull: float | None = 2.0
    """The critic is fitted to each round by least squares, held to what it was by this, the more
    the fewer answers a round has; null: never fitted, it learns by its loss alone."""
    entropy_coef: float = 0.0
    """Weight of the policy's entropy, which keeps it curious; 0: not computed."""
    normalize_scores: bool = False
    """Bring rewards to mean 0 and variance 1 of all seen so far."""
    missing_eos_penalty: float = 0.0
    """Taken off the reward of answers that were cut at max_completion_length."""


class PpoStage(rollouts.RolloutStage):
    """The critic is a head on the policy's hidden states, apart from any reward head."""

    Config = PpoConfig
    critic: Critic | None = None
    """Made by `equip`."""

    def __init__(self, config: PpoConfig, parts: Parts):
        super().__init__(config, parts)
        self.kl = advantages.KlControl(config.kl_coef, config.kl_target, config.kl_horizon)
        self.moments = advantages.Moments()

    @property
    def needs_reference(self) -> bool:  # type: ignore[override]
        return self.config.kl_coef > 0

    def rounds(self) -> tuple[int, int]:
        return self.config.num_mini_batches, self.config.num_ppo_epochs

    def check(self, recipe: Any) -> None:
        """Refuses numbers that make no sense.

        Raises:
            ConfigError: C227, and what `rewards.check` raises.
        """
        super().check(recipe)
        config = self.config
        for name in ("num_ppo_epochs", "num_mini_batches"):
            columns.within(name, vars(config)[name], vars(config)[name] >= 1, "at least 1")
        reach = config.cliprange_value
        columns.within("cliprange_value", reach or 0.0, reach is None or reach > 0, "above 0")
        pull = config.critic_pull
        columns.within("critic_pull", pull or 0.0, pull is None or pull > 0, "above 0")
        for name in ("cliprange", "kl_horizon"):
            columns.within(name, vars(config)[name], vars(config)[name] > 0, "above 0")
        for name in ("gamma", "lam"):
            columns.within(name, vars(config)[name], 0 <= vars(config)[name] <= 1, "0 to 1")
        for name in ("kl_coef", "vf_coef", "entropy_coef", "missing_eos_penalty"):
            columns.within(name, vars(config)[name], vars(config)[name] >= 0, "0 or above")
        target = config.kl_target
        good = target is None or (target > 0 and config.kl_coef > 0)
        columns.within("kl_target", target or 0.0, good, "above 0, with a kl_coef above 0")

    # ------------------------------------------------------------ the critic

    def equip(self, hf: nn.Module) -> None:
        """Makes the critic, in float32 or wider."""
        import torch

        from tunesmith.stages.critic_impl import Critic

        config: Any = hf.config
        weight = next(hf.parameters())
        wide = torch.promote_types(weight.dtype, torch.float32)
        width, longest = config.get_text_config().hidden_size, self.config.max_completion_length
        self.critic = Critic(width, longest, dtype=wide, device=weight.device)

    def modules(self) -> dict[str, nn.Module]:
        return {} if self.critic is None else {"value": self.critic}

    def save(self, hf: nn.Module, path: Path) -> None:
        """value.safetensors beside the policy, for whoever wants to look at the critic."""
        from safetensors.torch import save_file

        assert self.critic is not None, "equip makes it"
        save_file(self.critic.tensors(), path / "value.safetensors", metadata={"format": "pt"})

    # ------------------------------------------------------------ rounds

    def learn(self, run: Any, made: Round, answers: list[Answer]) -> None:
        from tunesmith.stages import experience_impl as experience

        config, count = self.config, len(answers)
        scores = self.scores(answers)
        made.columns |= columns.columns_of(answers, scores, (count, 1))
        measured = experience.measured(run, made, self._measure(run))
        old_NA, hidden_NAD = (measured[name][:, 0] for name in ("logprobs", "hidden"))
        mask_NA = experience.mask_of(made)[:, 0]
        kl_NA = np.zeros_like(old_NA)
        if self.needs_reference:
            reference = experience.reference_log_probabilities(run, made, config.temperature)
            kl_NA = old_NA - reference[:, 0]
        rewards_NA = -self.kl.value * _estimate(kl_NA, config.kl_estimator) * mask_NA
        rewards_NA[np.arange(count), mask_NA.sum(1) - 1] += self._scaled(scores.total_N, answers)
        kl = float(kl_NA.sum(1).mean())
        made.columns |= {
            **self._criticise(hidden_NAD, rewards_NA, mask_NA),
            "old_logprobs": old_NA[:, None],
            "answer_kl": kl_NA.sum(1)[:, None],
            "kl_coef": np.full((count, 1), self.kl.value, np.float32),
            "reward_std": np.full((count, 1), _spread(scores.total_N), np.float32),
        }
        self.health.idle(run.step, float(count > 1 and np.ptp(scores.total_N) == 0))
        length = float(np.mean([one.tokens for one in answers]))
        explained = float(made.columns["explained_variance"][0, 0])
        seen = explained if made.number else None  # the first round's critic is all zeros
        self.health.round(run.step, length, kl if self.needs_reference else None, seen)
        self.kl.update(kl, count)

    def _criticise(
        self, hidden_NAD: np.ndarray, rewards_NA: np.ndarray, mask_NA: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Columns of advantages, by the critic of the rounds before, and what it is to learn.

        It learns what was earned from each token on, which is GAE's return with λ = 1: any other
        holds a part of the critic's own word (decoupled GAE, arXiv:2503.01491). It is fitted after
        it has been asked: a fit that has seen an answer's reward would explain it away.
        """
        assert self.critic is not None, "equip makes it"
        config = self.config
        values_NA = self.critic.expected(hidden_NAD, mask_NA)
        found, _ = advantages.gae(rewards_NA, values_NA, mask_NA, config.gamma, config.lam)
        _, earned = advantages.gae(rewards_NA, values_NA, mask_NA, config.gamma, 1.0)
        explained = advantages.explained_variance(values_NA[mask_NA], earned[mask_NA])
        if config.critic_pull is not None:
            self.critic.fit(hidden_NAD, mask_NA, earned, config.critic_pull)
            values_NA = self.critic.expected(hidden_NAD, mask_NA)
        return {
            "advantages": advantages.whiten(found, mask_NA)[:, None].astype(np.float32),
            "returns": earned[:, None].astype(np.float32),
            "old_values": values_NA[:, None],
            "explained_variance": np.full((len(mask_NA), 1), explained, np.float32),
        }

    def _measure(self, run: Any) -> Any:
        def measure(batch: Batch) -> tuple[Any, dict[str, Tensor]]:
            tokens, hidden_SD = run.model.score(batch, temperature=self.config.temperature)
            return tokens, {"logprobs": tokens.logprobs_S, "hidden": hidden_SD}

        return measure

    def _scaled(self, total_N: np.ndarray, answers: list[Answer]) -> np.ndarray:
        """Rewards less the penalty of answers that were cut, normalised if asked for."""
        cut_N = np.array([not one.finished for one in answers])
        total_N = total_N - self.config.missing_eos_penalty * cut_N
        if not self.config.normalize_scores:
            return total_N
        self.moments.update(total_N)
        return (total_N - self.moments.mean) / (self.moments.std + advantages.TINY)

    # ------------------------------------------------------------ losses

    def policy_loss(self, model: Any, batch: Batch) -> Loss:
        from tunesmith.losses import policy

        config = self.config
        tokens, hidden_SD = model.score(batch, temperature=config.temperature)
        logprobs_S, example_S = tokens.logprobs_S, columns.example_of(tokens, batch)
        weights_S = tokens.weights_S.to(logprobs_S.dtype)
        column = lambda name: columns.on_tokens(batch, name, example_S, logprobs_S)
        reach = config.cliprange, config.cliprange
        found = policy.clipped(logprobs_S, column("old_logprobs"), column("advantages"), *reach)
        assert self.critic is not None, "equip makes it"
        values_S = self.critic(hidden_SD, example_S).to(logprobs_S.dtype)
        errors_S = policy.clipped_values(
            values_S, column("old_values"), column("returns"), config.cliprange_value
        )
        over_tokens = lambda values_S, coef=1.0: Term((weights_S * values_S).sum(), "tokens", coef)
        terms = {
            "policy": over_tokens(found.losses_S),
            "value": over_tokens(errors_S, config.vf_coef),
        }
        if config.entropy_coef:
            entropy_S = policy.entropy(hidden_SD, model.head(), config.temperature)
            terms["entropy"] = over_tokens(entropy_S, -config.entropy_coef)
        self.watch(model, found, weights_S)
        metrics = {
            "clip_share": over_tokens(found.clipped_S),
            "ratio": over_tokens(found.ratio_S.detach()),
            "surprise": over_tokens(-logprobs_S.detach()),
            "values": over_tokens(values_S.detach()),
        }
        return Loss(terms, metrics | columns.answer_metrics(batch))

    # ------------------------------------------------------------ checkpoints

    def state(self) -> dict[str, Any]:
        own = {"kl_coef": self.kl.value, "moments": asdict(self.moments)}
        return {**super().state(), **own}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.kl.value = state["kl_coef"]
        self.moments = advantages.Moments(**state["moments"])


def _spread(total_N: np.ndarray) -> float:
    """Standard deviation of a round's rewards, over N − 1; 0 of a single answer."""
    return float(total_N.std(ddof=1)) if len(total_N) > 1 else 0.0


def _estimate(k1_NA: np.ndarray, estimator: str) -> np.ndarray:
    """Each token's KL by the estimator, from log π − log ref; see `losses.policy.kl`."""
    if estimator == "k1":
        return k1_NA
    if estimator == "k2":
        return 0.5 * k1_NA**2
    return np.exp(np.clip(-k1_NA, -20.0, 20.0)) - 1 + k1_NA
