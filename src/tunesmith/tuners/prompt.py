"""Prompt tuning: trained vectors before every sample, in PEFT's file format (arXiv:2104.08691)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tunesmith.tuners.base import VirtualTokens

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class PromptConfig:
    """Train the embeddings of virtual tokens; the model stays as it is."""

    kind: Literal["prompt"] = "prompt"
    """The tuner's name."""
    tokens: int = 20
    """How many virtual tokens stand before every sample."""
    init: Literal["vocab", "text", "random"] = "vocab"
    """They begin as tokens of the vocabulary drawn at random, as those of `text`, or as noise of
    the embeddings' own size."""
    text: str | None = None
    """With init: text, what they begin as; repeated or cut to the number of tokens."""


class PromptTuner(VirtualTokens):
    Config = PromptConfig
    what = "prompt tuning"

    def __init__(self, config: PromptConfig):
        super().__init__(config)
        self.ids: tuple[int, ...] = ()
        """What `text` is in tokens; `read` sets it."""

    def read(self, tokenizer: Any) -> None:
        """Takes `text` in the tokens of the model's tokenizer."""
        if self.config.text is not None:
            self.ids = tuple(tokenizer.encode_text(self.config.text))

    def apply(self, model: nn.Module) -> None:
        """Freezes the model and gives it virtual tokens, drawn from torch's RNG.

        Raises:
            ConfigError: E233, the model has virtual tokens already, or can't have any.
        """
        from tunesmith.tuners import prompt_impl

        prompt_impl.apply_prompt(model, self.config, self.ids)
