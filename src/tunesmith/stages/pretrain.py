"""Pretraining, from scratch or continued: every token of every document, each ended by EOS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tunesmith.errors import ConfigError
from tunesmith.stages.base import Plain, token_loss
from tunesmith.types import Batch, Document, Encoded, Example, Loss, Parts


@dataclass(frozen=True)
class PretrainConfig:
    """Next-token prediction on plain text."""

    kind: Literal["pretrain"] = "pretrain"
    """The stage's name."""


class PretrainStage(Plain):
    """Documents become blocks of at most `max_length` tokens; neighbours share one token, so that
    every token but a document's first is predicted exactly once."""

    Config = PretrainConfig
    sample = (Document,)

    def __init__(self, parts: Parts):
        self.template = parts.template
        self.tokenizer = parts.template.tokenizer
        self.max_length = parts.max_length

    @classmethod
    def build(cls, config: PretrainConfig, parts: Parts) -> PretrainStage:
        return cls(parts)

    def check(self, recipe: Any) -> None:
        if self.tokenizer.eos_id is None:
            raise ConfigError(
                "C180",
                "pretraining needs an EOS token between documents, and this tokenizer has none",
                where="model.tokenizer",
                fix="set `eos_token` in its tokenizer_config.json",
            )

    def encode(self, samples: Sequence[Document]) -> list[Encoded]:
        """Token ids of each document with BOS (where the tokenizer adds one) and EOS, in blocks."""
        encoded = self.tokenizer.encode_documents([sample.text for sample in samples])
        return [self._blocks(ids) for ids in encoded]

    def _blocks(self, ids: list[int]) -> Encoded:
        first_content = 1 if ids and ids[0] == self.tokenizer.bos_id else 0
        if len(ids) == first_content:
            return Encoded(problem="the document is empty")
        ids_T = np.asarray([*ids, self.tokenizer.eos_id], np.int32)
        stride = self.max_length - 1
        blocks = []
        for start in range(0, len(ids_T) - 1, stride):
            block_T = ids_T[start : start + self.max_length]
            weights_T = np.ones(len(block_T), np.float32)
            weights_T[0] = 0.0
            blocks.append(Example(block_T, weights_T))
        return Encoded(tuple(blocks))

    def loss(self, model: Any, batch: Batch) -> Loss:
        return token_loss(model(batch), batch)
