"""PPO written a second time, slowly and plainly: one answer at a time, full logits, Python loops.

Nothing of tunesmith is used. It is what `stages/ppo.py` is tested against.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch


@dataclass
class Settings:
    kl_coef: float = 0.1
    gamma: float = 0.97
    lam: float = 0.9
    clip: float = 0.2
    clip_value: float | None = 0.2
    vf_coef: float = 0.1
    entropy_coef: float = 0.0
    temperature: float = 1.0
    epochs: int = 2
    mini_batches: int = 2
    rate: float = 1e-3
    critic_rate: float = 1.0
    longest: int = 8
    adam_epsilon: float = 1e-4
    max_norm: float = 1.0


@dataclass
class Answer:
    ids: list[int]
    prompt: int
    """Tokens of the prompt."""
    score: float


class PlainPpo:
    """A policy with a linear critic, its frozen copy, and AdamW."""

    def __init__(self, model, settings: Settings):
        self.model, self.settings = model, settings
        self.frozen = copy.deepcopy(model)
        self.critic = torch.zeros(model.config.hidden_size, requires_grad=True)
        self.time = torch.zeros(2, requires_grad=True)
        self.parameters = [*model.parameters(), self.critic, self.time]
        self.adam = torch.optim.AdamW(
            self.parameters, lr=settings.rate, eps=settings.adam_epsilon, weight_decay=0.0
        )

    def worth(self, hidden, place: int):
        """What the critic expects of an answer with `place` tokens."""
        time = self.time + (self.settings.critic_rate - 1) * self.time.detach()
        return hidden @ self.critic + time[0] + time[1] * (1 - place / self.settings.longest)

    def look(self, model, answer: Answer):
        """(log-probabilities, values, entropies) of an answer's tokens."""
        output = model(input_ids=torch.tensor([answer.ids]), output_hidden_states=True)
        logits = output.logits[0] / self.settings.temperature
        logprobs = torch.log_softmax(logits, -1)
        hidden = output.hidden_states[-1][0]
        chosen, expected, spread = [], [], []
        for t in range(answer.prompt, len(answer.ids)):
            chosen.append(logprobs[t - 1, answer.ids[t]])
            expected.append(self.worth(hidden[t - 1], t - answer.prompt))
            spread.append(-(logprobs[t - 1].exp() * logprobs[t - 1]).sum())
        return torch.stack(chosen), torch.stack(expected), torch.stack(spread)

    def round(self, answers: list[Answer]) -> list[dict[str, float]]:
        """Learns from a round of answers; what each update's loss was."""
        with torch.no_grad():
            old = [self.look(self.model, answer)[:2] for answer in answers]
            frozen = [self.look(self.frozen, answer)[0] for answer in answers]
        advantages, returns = [], []
        for answer, (logprobs, values), reference in zip(answers, old, frozen, strict=True):
            rewards = [
                -self.settings.kl_coef * float(a - b)
                for a, b in zip(logprobs, reference, strict=True)
            ]
            rewards[-1] += answer.score
            advantage, following = [0.0] * len(rewards), 0.0
            for t in reversed(range(len(rewards))):
                after = float(values[t + 1]) if t + 1 < len(rewards) else 0.0
                delta = rewards[t] + self.settings.gamma * after - float(values[t])
                following = delta + self.settings.gamma * self.settings.lam * following
                advantage[t] = following
            advantages.append(advantage)
            returns.append([a + float(v) for a, v in zip(advantage, values, strict=True)])
        every = [a for advantage in advantages for a in advantage]
        mean = sum(every) / len(every)
        std = math.sqrt(sum((a - mean) ** 2 for a in every) / len(every) + 1e-8)
        white = [[(a - mean) / std for a in advantage] for advantage in advantages]
        size = len(answers) // self.settings.mini_batches
        found = []
        for _ in range(self.settings.epochs):
            for start in range(0, len(answers), size):
                part = range(start, start + size)
                found.append(
                    self.update([(answers[i], old[i], white[i], returns[i]) for i in part])
                )
        return found

    def update(self, rows) -> dict[str, float]:
        s = self.settings
        policy, value, entropy, count = 0.0, 0.0, 0.0, 0
        for answer, (old, old_values), advantages, returns in rows:
            logprobs, values, spread = self.look(self.model, answer)
            for t in range(len(advantages)):
                ratio = torch.exp(logprobs[t] - old[t])
                plain, cut = (
                    ratio * advantages[t],
                    ratio.clamp(1 - s.clip, 1 + s.clip) * advantages[t],
                )
                policy = policy - torch.min(plain, cut)
                wrong = (values[t] - returns[t]) ** 2
                if s.clip_value is not None:
                    moved = (values[t] - old_values[t]).clamp(-s.clip_value, s.clip_value)
                    wrong = torch.max(wrong, (old_values[t] + moved - returns[t]) ** 2)
                value = value + 0.5 * wrong
                entropy = entropy + spread[t]
                count += 1
        loss = (policy + s.vf_coef * value - s.entropy_coef * entropy) / count
        self.adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, s.max_norm)
        self.adam.step()
        return {"loss": float(loss), "policy": float(policy) / count, "value": float(value) / count}
