"""What tuners share: building one by name, and parameter groups."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from tunesmith import registry
from tunesmith.types import Tuner

if TYPE_CHECKING:
    from torch import nn


def build(config: Any, tokenizer: Any = None) -> Tuner:
    """The tuner that `config.kind` names.

    Args:
        config: Of the recipe.
        tokenizer: Makes tokens of the words that a tuner may begin with; None: it is not applied
            to weights, or reads what was trained.
    """
    tuner: Any = registry.load("tuners", config.kind).build(config)
    reader: Any = tuner
    if tokenizer is not None and isinstance(reader, ReadsText):
        reader.read(tokenizer)
    return tuner


def for_adapter(path: Path) -> Tuner:
    """The tuner that computes an adapter on disk; `apply` it, then `load` the path.

    Raises:
        EnvironmentFault: E209, no adapter there; E210, an adapter of a kind we can't compute.
    """
    from tunesmith.tuners import lora_files_impl, prompt_impl

    virtual = prompt_impl.kind_of(path)
    if virtual is not None:
        return registry.load("tuners", virtual).build(prompt_impl.config_of(path))
    return registry.load("tuners", "lora").build(lora_files_impl.read_config(path))


@runtime_checkable
class ReadsText(Protocol):
    """A tuner that begins with the words of its config."""

    def read(self, tokenizer: Any) -> None: ...


@runtime_checkable
class KeepsReference(Protocol):
    """A tuner that changes weights in place: `reference` needs a copy made before training."""

    def keep_reference(self, model: nn.Module) -> None: ...


def keep_reference(tuner: Tuner, model: nn.Module) -> None:
    """Makes `tuner.reference(model)` the model as it is now; adapters need nothing for it."""
    if isinstance(tuner, KeepsReference):
        tuner.keep_reference(model)


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trained parameters in two groups: matrices decay; biases, norms and other vectors do not.

    Each group also lists `names`, in the order of its `params`.
    """
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = []
    for decayed in (True, False):
        chosen = [(name, p) for name, p in trained if (p.dim() >= 2) == decayed]
        if chosen:
            groups.append(
                {
                    "params": [p for _, p in chosen],
                    "names": [name for name, _ in chosen],
                    "weight_decay": weight_decay if decayed else 0.0,
                }
            )
    return groups


class VirtualTokens:
    """What tuners share whose parameters are tokens before the text (`tuners/prompt_impl.py`)."""

    packable = True
    mergeable = False
    what: str
    """The method's name."""

    def __init__(self, config: Any):
        self.config = config

    @classmethod
    def build(cls, config: Any) -> Self:
        """Raises:
        ConfigError: E232, no tokens, or settings that contradict each other.
        """
        from tunesmith.tuners.prompt_impl import check

        check(config)
        return cls(config)

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

        raise no_merge(self.what)
