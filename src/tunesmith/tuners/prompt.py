"""Prompt tuning: trained vectors before every sample, in PEFT's file format (arXiv:2104.08691)."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tunesmith.tuners.base import decay_groups

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


class PromptTuner:
    Config = PromptConfig
    packable = True
    mergeable = False

    def __init__(self, config: PromptConfig):
        self.config = config
        self.ids: tuple[int, ...] = ()
        """What `text` is in tokens; `read` sets it."""

    @classmethod
    def build(cls, config: PromptConfig) -> PromptTuner:
        """Raises:
        ConfigError: E232, no tokens, or a text without init: text or the other way round.
        """
        from tunesmith.tuners.prompt_impl import check

        check(config)
        return cls(config)

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

    def load(self, model: nn.Module, path: Path) -> None:
        """Reads virtual tokens written by `save` or by PEFT.

        Raises:
            EnvironmentFault: E209, files are missing; E210, they don't fit this model.
        """
        from tunesmith.tuners import prompt_impl

        prompt_impl.load(model, path)

    def parameter_groups(self, model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
        return decay_groups(model, weight_decay)

    def reference(self, model: nn.Module) -> AbstractContextManager[None]:
        """The model without its virtual tokens, for as long as the context lasts."""
        from tunesmith.tuners import prompt_impl

        return prompt_impl.reference(model)

    def save(self, model: nn.Module, path: Path) -> None:
        """Writes adapter_config.json and adapter_model.safetensors."""
        from tunesmith.tuners import prompt_impl

        prompt_impl.save(model, path)

    def merge(self, model: nn.Module) -> None:
        """Raises:
        ConfigError: E234, virtual tokens are no change of weights.
        """
        from tunesmith.tuners.prompt_impl import no_merge

        raise no_merge("prompt tuning")
