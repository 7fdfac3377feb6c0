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
    clip_value: float | None = None
    vf_coef: float = 0.1
    entropy_coef: float = 0.0
    temperature: float = 1.0
    epochs: int = 2
    mini_batches: int = 2
    rate: float = 1e-3
    pull: float | None = 2.0
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
        self.past = torch.zeros(model.config.hidden_size, requires_grad=True)
        self.time = torch.zeros(2, requires_grad=True)
        self.head = [self.critic, self.past, self.time]
        self.parameters = [*model.parameters(), *self.head]
        self.adam = torch.optim.AdamW(
            self.parameters, lr=settings.rate, eps=settings.adam_epsilon, weight_decay=0.0
        )

    def features(self, states, place: int):
        """What the critic sees of an answer with `place` tokens and one more state."""
        time = torch.tensor([1.0, 1 - place / self.settings.longest])
        return torch.cat([states[-1], sum(states) / self.settings.longest, time])

    def fit(self, rows, returns, answers: int) -> None:
        """Ridge regression towards the head as it is, as least squares with rows added."""
        tall, wanted = torch.stack(rows).double(), torch.tensor(returns, dtype=torch.float64)
        old = torch.cat(self.head).detach().double()
        firm = self.settings.pull * len(old) / answers * tall.square().sum(0)
        firm[-2:] /= 100
        tall = torch.cat([tall, firm.sqrt().diag()])
        wanted = torch.cat([wanted, firm.sqrt() * old])
        new = torch.linalg.lstsq(tall, wanted[:, None]).solution[:, 0]
        for own, part in zip(self.head, new.split([len(p) for p in self.head]), strict=True):
            own.data.copy_(part)

    def look(self, model, answer: Answer):
        """(log-probabilities, values, entropies, features) of an answer's tokens."""
        output = model(input_ids=torch.tensor([answer.ids]), output_hidden_states=True)
        logits = output.logits[0] / self.settings.temperature
        logprobs = torch.log_softmax(logits, -1)
        hidden = output.hidden_states[-1][0]
        chosen, expected, spread, seen = [], [], [], []
        for t in range(answer.prompt, len(answer.ids)):
            chosen.append(logprobs[t - 1, answer.ids[t]])
            states = [hidden[s - 1] for s in range(answer.prompt, t + 1)]
            seen.append(self.features(states, t - answer.prompt))
            expected.append(seen[-1] @ torch.cat(self.head))
            spread.append(-(logprobs[t - 1].exp() * logprobs[t - 1]).sum())
        return torch.stack(chosen), torch.stack(expected), torch.stack(spread), seen

    def round(self, answers: list[Answer]) -> list[dict[str, float]]:
        """Learns from a round of answers; what each update's loss was."""
        with torch.no_grad():
            looked = [self.look(self.model, answer) for answer in answers]
            old = [found[:2] for found in looked]
            frozen = [self.look(self.frozen, answer)[0] for answer in answers]
        advantages, returns = [], []
        for answer, (logprobs, values), reference in zip(answers, old, frozen, strict=True):
            rewards = [
                -self.settings.kl_coef * float(a - b)
                for a, b in zip(logprobs, reference, strict=True)
            ]
            rewards[-1] += answer.score
            advantage, earned, following, later = [0.0] * len(rewards), [], 0.0, 0.0
            for t in reversed(range(len(rewards))):
                after = float(values[t + 1]) if t + 1 < len(rewards) else 0.0
                delta = rewards[t] + self.settings.gamma * after - float(values[t])
                following = delta + self.settings.gamma * self.settings.lam * following
                advantage[t] = following
                later = rewards[t] + self.settings.gamma * later
                earned.insert(0, later)
            advantages.append(advantage)
            returns.append(earned)
        every = [a for advantage in advantages for a in advantage]
        mean = sum(every) / len(every)
        std = math.sqrt(sum((a - mean) ** 2 for a in every) / len(every) + 1e-8)
        white = [[(a - mean) / std for a in advantage] for advantage in advantages]
        if self.settings.pull is not None:
            self.fit(
                [row for found in looked for row in found[3]],
                [value for earned in returns for value in earned],
                len(answers),
            )
            with torch.no_grad():
                old = [(found[0], torch.stack(found[3]) @ torch.cat(self.head)) for found in looked]
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
            logprobs, values, spread, _ = self.look(self.model, answer)
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
