"""Supervised fine-tuning: the assistant's turns of a conversation, each with its end marker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from tunesmith.errors import ConfigError, DataError
from tunesmith.stages.base import Plain, neftune, token_loss
from tunesmith.templates import missing
from tunesmith.templates.base import EncodedTurn
from tunesmith.templates.fit import fit, misfit
from tunesmith.templates.truncate import Limits, length
from tunesmith.types import Batch, Conversation, Encoded, Example, Loss, Parts


@dataclass(frozen=True)
class SftConfig:
    """Supervised fine-tuning on conversations."""

    kind: Literal["sft"] = "sft"
    """The stage's name."""
    train_on: Literal["all_turns", "last_turn", "with_prompt"] = "all_turns"
    """Trained tokens: every assistant turn, only the last, or the whole conversation."""
    neftune_noise_alpha: float = 0.0
    """NEFTune: uniform noise on the embeddings while training; 5 is usual, 0 is off."""


class SftStage(Plain):
    """Conversations become examples by the template; tokens of the assistant have weight 1."""

    Config = SftConfig
    sample = (Conversation,)

    def __init__(self, config: SftConfig, parts: Parts):
        self.config = config
        self.parts = parts
        self.template = parts.template
        self.limits = Limits(
            parts.max_length, parts.max_prompt_length, parts.max_answer_length, parts.truncation
        )

    @classmethod
    def build(cls, config: SftConfig, parts: Parts) -> SftStage:
        return cls(config, parts)

    def check(self, recipe: Any) -> None:
        if self.config.neftune_noise_alpha < 0:
            raise ConfigError(
                "C183",
                f"neftune_noise_alpha is {self.config.neftune_noise_alpha}",
                where="stage.neftune_noise_alpha",
                fix="use 0 (off) or a positive number such as 5",
            )

    def encode(self, samples: Sequence[Conversation]) -> list[Encoded]:
        """Examples of each conversation, or the reason why it can't be trained."""
        results: list[Encoded | None] = [None] * len(samples)
        sequences, owners = [], []
        for index, sample in enumerate(samples):
            try:
                rendered = self._render(sample)
            except DataError as error:
                results[index] = Encoded(problem=error.what)
                continue
            sequences += rendered
            owners += [index] * len(rendered)
        encoded: dict[int, list[list[EncodedTurn]]] = {}
        for owner, turns in zip(owners, self._encode_each(sequences), strict=True):
            if isinstance(turns, DataError):
                results[owner] = Encoded(problem=turns.what)
            else:
                encoded.setdefault(owner, []).append(turns)
        for index, found in encoded.items():
            results[index] = results[index] or self._record(samples[index], found)
        return [result or Encoded(problem="no trained turn") for result in results]

    def _encode_each(self, sequences: list[Any]) -> list[list[EncodedTurn] | DataError]:
        """All sequences in one batch; if one can't be encoded, each by itself."""
        try:
            return list(self.template.encode_batch(sequences))
        except DataError:
            return [self._one_or_error(turns) for turns in sequences]

    def _one_or_error(self, turns: Any) -> list[EncodedTurn] | DataError:
        try:
            return self.template.encode_batch([turns])[0]
        except DataError as error:
            return error

    def _render(self, sample: Conversation) -> Any:
        return self.template.render(sample, train_on=self.config.train_on, system=self.parts.system)

    def _record(self, sample: Conversation, sequences: list[list[EncodedTurn]]) -> Encoded:
        """Applies the length policy, then turns sequences into examples."""
        if not any(turn.weight and turn.answered for turns in sequences for turn in turns):
            return Encoded(problem="the answer is empty, so only an end marker would be trained")
        whole, trained = sum(map(length, sequences)), _trained(sequences)
        if problem := self.limits.excess(sequences):
            if self.parts.on_overlength != "truncate":
                return Encoded(problem=problem, policy=self.parts.on_overlength)
            fitted = fit(sample, self._encode_one, self.template.tokenizer, self.limits)
            if not fitted:
                said = misfit(sample, self._encode_one, self.template.tokenizer, self.limits)
                return Encoded(problem=said, policy="skip")
            sequences = fitted
        examples = tuple(example(turns) for turns in sequences)
        cut = whole - sum(map(length, sequences))
        return Encoded(
            examples,
            cut,
            cut_answer=_trained(sequences) < trained,
            gaps=partial(self._gaps, sample) if cut else None,
        )

    def _gaps(self, sample: Conversation) -> tuple[dict[int, int], ...]:
        return missing.gaps(sample, self._encode_one, self.template.tokenizer, self.limits)

    def _encode_one(self, sample: Conversation) -> list[list[EncodedTurn]]:
        return self.template.encode_batch(self._render(sample))

    def loss(self, model: Any, batch: Batch) -> Loss:
        alpha = self.config.neftune_noise_alpha
        if alpha and model.training:
            noisy = lambda embeddings, b: neftune(embeddings, b, alpha)
            return token_loss(model(batch, noisy), batch)
        return token_loss(model(batch), batch)


def _trained(sequences: list[list[EncodedTurn]]) -> int:
    """Tokens of the answers that are trained."""
    return sum(len(turn.completion_ids) for turns in sequences for turn in turns if turn.weight)


def example(turns: list[EncodedTurn]) -> Example:
    """Ids laid end to end, and for each its weight as a target."""
    ids: list[int] = []
    ends: list[int] = []
    weights: list[float] = []
    for turn in turns:
        ids += turn.prompt_ids
        ends.append(len(ids))
        ids += turn.completion_ids
        ends.append(len(ids))
        weights += turn.prompt_weight, turn.weight
    weights_T = np.empty(len(ids), np.float32)
    start = 0
    for end, weight in zip(ends, weights, strict=True):
        weights_T[start:end] = weight
        start = end
    weights_T[0] = 0.0  # the first token has no predecessor
    return Example(np.array(ids, np.int32), weights_T)
