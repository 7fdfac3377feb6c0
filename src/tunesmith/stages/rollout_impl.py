"""What reinforcement stages share: prompts out of data, and rounds of answers to learn from.

A round answers the prompts of some of the loader's steps with the weights of its beginning. An
item is a prompt with its answers; what belongs to an answer or a token is a column of the item,
so that any layout of items into batches carries it along.

Legend: `P` prompts, `G` answers to each, `A` tokens of the longest answer, `S` supervised
positions.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tunesmith.data.collate import collate_items
from tunesmith.data.rounds import Rounds
from tunesmith.rewards import base as rewards, exact_match
from tunesmith.rewards.base import Answer, Reward, Rewards
from tunesmith.stages.base import Plain
from tunesmith.stages.columns_impl import within
from tunesmith.stages.health_impl import Health
from tunesmith.stages.passes_impl import passes
from tunesmith.stages.sft import SftConfig, SftStage
from tunesmith.types import Conversation, Encoded, Example, Loss, Parts, Term

if TYPE_CHECKING:
    from torch import Tensor

    from tunesmith.losses.policy import Clipped
    from tunesmith.types import Batch, Run, Step


@dataclass(frozen=True)
class RolloutConfig:
    """What every stage that learns from sampled answers is told."""

    rewards: tuple[Reward, ...] = (Reward("exact_match"),)
    """What answers are judged by, added up by weight: exact_match, math_answer, regex, length,
    token_count, rewards.py:function, http://…, a reward model's run."""
    max_completion_length: int = 256
    """Longest answer in tokens."""
    temperature: float = 1.0
    """Of sampling, and of the log-probabilities that are trained."""
    kl_limit: float = 30.0
    """Red line: KL of an answer to the model before training, in nats, where a round measures it:
    ppo, rloo with a beta, grpo with a beta and several updates a round."""
    on_health: Literal["warn", "stop"] = "warn"
    """A crossed red line (KL, clipped share, ratio, length, critic): say so, or stop."""


@dataclass
class Round:
    """Answers to learn from, and everything that was computed once when they were sampled."""

    number: int
    items: list[tuple[Example, ...]]
    """A prompt's answers, each with its prompt; P items of G examples."""
    plan: list[list[list[int]]]
    """Items of each update and micro-batch."""
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    """float32, shape (P, G) for values of answers, (P, G, A) for those of tokens."""

    def step(self, inner: int, layout: dict[str, bool]) -> Step:
        """The batches of one update."""
        return [self.batch(items, layout) for items in self.plan[inner]]

    def batch(self, items: Sequence[int], layout: dict[str, bool]) -> Batch:
        columns = {name: values[list(items)] for name, values in self.columns.items()}
        chosen = [self.items[i] for i in items]
        return collate_items(chosen, columns=columns, padding_side="right", **layout)

    def state(self) -> dict[str, Any]:
        """JSON values; float32 survives it bit for bit."""
        return {
            "number": self.number,
            "plan": self.plan,
            "items": [[[e.ids_T.tolist(), e.weights_T.tolist()] for e in i] for i in self.items],
            "columns": {name: values.tolist() for name, values in self.columns.items()},
        }

    @classmethod
    def of(cls, state: dict[str, Any]) -> Round:
        items = [
            tuple(Example(np.array(i, np.int32), np.array(w, np.float32)) for i, w in item)
            for item in state["items"]
        ]
        columns = {name: np.array(v, np.float32) for name, v in state["columns"].items()}
        return cls(state["number"], items, state["plan"], columns)


class RolloutStage(Plain):
    """A stage that learns from answers it samples, but for what it makes of them.

    Subclasses say what the recipe calls things: `answers_per_prompt`, `rounds`, `learn`.
    """

    sample = (Conversation,)

    def __init__(self, config: Any, parts: Parts):
        super().__init__(config, parts)
        self._encoder = SftStage.build(SftConfig(train_on="last_turn"), parts)
        self._run: Any = None
        self._rewards: Rewards | None = None
        self._round: Round | None = None
        self._left = 0
        """Updates of the round that are still to be made."""
        self.health = Health(config.on_health, config.kl_limit, _silent)

    # ------------------------------------------------------------ what subclasses say

    answers_per_prompt: int = 1
    needs_reference: bool = False

    @abstractmethod
    def rounds(self) -> tuple[int, int]:
        """(steps of the loader in a round, times that each is visited)."""

    @abstractmethod
    def learn(self, run: Any, made: Round, answers: list[Answer]) -> None:
        """Scores the answers and fills the columns of a round."""

    @abstractmethod
    def policy_loss(self, model: Any, batch: Batch) -> Loss:
        """The loss of a batch of answers."""

    # ------------------------------------------------------------ before training

    def check(self, recipe: Any) -> None:
        """Refuses rewards that are not there, and numbers that make no sense.

        Raises:
            ConfigError: C110, C224 to C226; C227.
        """
        config = self.config
        rewards.check(config.rewards)
        longest = config.max_completion_length
        within("max_completion_length", longest, longest >= 1, "at least 1")
        for name in ("temperature", "kl_limit"):
            within(name, vars(config)[name], vars(config)[name] > 0, "above 0")

    def arrange(self, loader: Any) -> Rounds:
        """The loader visited in rounds."""
        return Rounds(loader, *self.rounds())

    def prepare(self, run: Run, say: Callable[[str], None]) -> None:
        """Loads rewards, and keeps a reference where the tuner can't switch itself off."""
        from tunesmith.tuners.base import keep_reference

        self._run, self.health.say = run, say
        self.health.record = run.directory.append_event
        self._rewards = Rewards.build(self.config.rewards, run.scorer, say)
        config = self.config
        count, longest = self.answers_per_prompt, config.max_completion_length
        said = f"{count} answer(s) to each prompt, of at most {longest} tokens, "
        say(f"{said}at temperature {config.temperature:g}")
        say("their log-probabilities are those of the training forward, not the sampler's")
        if self.needs_reference:
            keep_reference(run.tuner, run.model)

    def encode(self, samples: Sequence[Conversation]) -> list[Encoded]:
        """Prompt and reference answer of each row, the answer's tokens with weight 1."""
        return [
            self._whole(sample, found)
            for sample, found in zip(
                samples, self._encoder.encode([_last_answer(one) for one in samples]), strict=True
            )
        ]

    def _whole(self, sample: Conversation, found: Encoded) -> Encoded:
        """A reference that was cut would be compared with whole answers: such rows are left out."""
        if not found.truncated or not found.examples:
            return found
        rendered = self.template.render(_last_answer(sample), system=self.parts.system)
        turns = self.template.encode_batch(rendered)[-1]
        trained = int(np.count_nonzero(found.examples[-1].weights_T))
        if trained == len(turns[-1].completion_ids):
            return found
        problem = f"the answer does not fit data.max_length = {self.parts.max_length} tokens"
        return Encoded(problem=problem, policy="skip")

    # ------------------------------------------------------------ rounds

    def steps(self, run: Run) -> Iterator[Step]:
        loader: Any = run.loader
        for step in range(run.step, run.total_steps):
            number, inner = divmod(step, loader.size)
            if self._round is None or self._round.number != number:
                self._round = self.roll_out(run, number)
            self._left = loader.size - inner - 1
            yield self._round.step(inner % loader.width, loader.layout)
            self.health.update(run.step, run.parallel.sum)

    def roll_out(self, run: Any, number: int) -> Round:
        """Samples and scores the answers of a round."""
        from tunesmith.stages import experience_impl as experience

        plan = run.loader.micro_rows(number)
        rows = [row for step in plan for micro in step for row in micro]
        examples = [run.loader.dataset[row][-1] for row in rows]
        keys = [f"{number}/{place}" for place in range(len(rows))]
        groups = experience.sample(self._asking(run), examples, keys, self.answers_per_prompt)
        place = iter(range(len(rows)))
        items = [tuple(one.example for one in group) for group in groups]
        places = [[[next(place) for _ in micro] for micro in step] for step in plan]
        made = Round(number, items, [passes(step, items, run.loader.loader) for step in places])
        self.learn(run, made, [one.answer for group in groups for one in group])
        return made

    def _asking(self, run: Any, temperature: float | None = None) -> Any:
        from tunesmith.stages.experience_impl import Asking

        config = self.config
        wanted = config.temperature if temperature is None else temperature
        seed = run.recipe.train.seed
        return Asking(run.generator, self.template, config.max_completion_length, wanted, seed)

    def scores(self, answers: list[Answer]) -> rewards.Scores:
        """What the recipe's rewards say of answers."""
        assert self._rewards is not None, "prepare builds the rewards"
        return self._rewards.score(answers)

    def watch(self, model: Any, found: Clipped, weights: Tensor) -> None:
        """Shows a micro-batch in training to the rules of health."""
        if model.training and self._run is not None:
            sums = ((weights * value.detach()).sum() for value in (found.ratio_S, found.clipped_S))
            self.health.see((*sums, weights.sum().detach()))

    # ------------------------------------------------------------ losses

    def loss(self, model: Any, batch: Batch) -> Loss:
        if "advantages" in batch.extra:
            return self.policy_loss(model, batch)
        return self._judge(batch)

    def _judge(self, batch: Batch) -> Loss:
        """Evaluation: each prompt is answered once, greedily; the loss is the reward's negative."""
        import torch

        from tunesmith.stages import experience_impl as experience

        examples = experience.examples_of(batch)
        keys = [f"eval/{place}" for place in range(len(examples))]
        groups = experience.sample(self._asking(self._run, 0.0), examples, keys, 1)
        answers = [group[0].answer for group in groups]
        scores = self.scores(answers)
        term = lambda values: Term(torch.tensor(float(np.sum(values))), "rows")
        found: dict[str, Any] = {f"rewards/{name}": each for name, each in scores.each.items()}
        found |= {
            "reward": scores.total_N,
            "exact_match": exact_match.score(answers, None),
            "completion_length": [float(one.tokens) for one in answers],
            "cut_share": [float(not one.finished) for one in answers],
        }
        texts = {
            "prompt": [one.prompt for one in answers],
            "answer": [one.text for one in answers],
            "reference": [one.reference for one in answers],
        }
        metrics = {name: term(values) for name, values in found.items()}
        return Loss({"loss": term(-scores.total_N)}, metrics, lambda: {**texts, **found})

    def remarks(self) -> list[str]:
        return self.health.remarks()

    # ------------------------------------------------------------ checkpoints

    def state(self) -> dict[str, Any]:
        """The round in hand while updates of it are to come: its weights are gone."""
        state: dict[str, Any] = {
            "first_length": self.health.first_length,
            "red_lines": self.health.history,
        }
        if self._round is not None and self._left:
            state["round"] = self._round.state()
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        self.health.first_length = state["first_length"]
        self.health.history = state.get("red_lines", {})  # older checkpoints have none
        self._round = Round.of(state["round"]) if "round" in state else None


def _silent(text: str) -> None:
    """Nobody to tell before `prepare`."""


def _last_answer(talk: Conversation) -> Conversation:
    """The conversation up to its last answer, in which only that one is trained."""
    last = max((i for i, m in enumerate(talk.messages) if m.role == "assistant"), default=-1)
    weighted = (
        replace(m, weight=1.0 if i == last else 0.0)
        for i, m in enumerate(talk.messages[: last + 1])
    )
    return Conversation(tuple(weighted), talk.tools)
