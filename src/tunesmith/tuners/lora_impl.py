"""How LoRA changes a model: choosing layers, adding deltas, switching them off, merging them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tunesmith.errors import ConfigError
from tunesmith.models.language_model import LanguageModel
from tunesmith.models.lowrank import LowRankLinear
from tunesmith.models.quantised import BesideQuantised, is_quantised
from tunesmith.registry import did_you_mean
from tunesmith.tuners.lora import LoraConfig

# A module trained whole keeps its frozen original under this name: `weight` -> `original_weight`.
_ORIGINAL = "lora_original_"  # no family has a buffer called so (Llama has `original_inv_freq`)


def transformers_model(model: Any) -> PreTrainedModel:
    """The transformers model inside a LanguageModel; others are returned as they are."""
    return model.hf if isinstance(model, LanguageModel) else model


def apply(model: nn.Module, config: LoraConfig) -> None:
    """Freezes `model`, replaces its target layers, unfreezes copies of the modules to save."""
    if config.r < 1 or not 0 <= config.lora_dropout < 1:
        raise ConfigError(
            "C170",
            f"r is {config.r} and lora_dropout {config.lora_dropout}",
            where="tuner",
            fix="r must be at least 1, lora_dropout at least 0 and below 1",
        )
    hf = transformers_model(model)
    saved = module_names(hf, config.modules_to_save, "tuner.modules_to_save")
    targets = [
        name
        for name in target_names(hf, config.target_modules)
        if not any(f"{name}.".startswith(f"{whole}.") for whole in saved)
    ]
    hf.requires_grad_(False)
    scale = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
    for name in targets:
        base: Any = hf.get_submodule(name)
        if is_quantised(base):
            hf.set_submodule(name, _beside(base, scale, config))
            continue
        layer = LowRankLinear(
            base,
            rank=config.r,
            scale=scale,
            dropout=config.lora_dropout,
            dora=config.use_dora,
            dtype=wide(base.weight.dtype),
        )
        hf.set_submodule(name, layer)
    for name in saved:
        _train_whole(hf.get_submodule(name))
    settle(model)


def _beside(base: Any, scale: float, config: LoraConfig) -> BesideQuantised:
    if config.use_dora:
        raise ConfigError(
            "E230",
            "DoRA needs the weights themselves, and these are quantised",
            where="tuner.use_dora",
            fix="tuner.use_dora=false, or leave out model.quantize",
        )
    return BesideQuantised(base, rank=config.r, scale=scale, dropout=config.lora_dropout)


def settle(model: nn.Module) -> None:
    """Tells a LanguageModel that the types of its weights have changed."""
    if isinstance(model, LanguageModel):
        model.settle()


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type trained weights are kept in: float32, or float64 if they were in it."""
    return torch.promote_types(dtype, torch.float32)


def linear_names(hf: PreTrainedModel) -> list[str]:
    """Full names of all linear layers but the output head."""
    head = hf.get_output_embeddings()
    return [
        name
        for name, module in hf.named_modules()
        if (isinstance(module, (nn.Linear, Conv1D, LowRankLinear)) or is_quantised(module))
        and module is not head
    ]


def target_names(hf: PreTrainedModel, wanted: str | tuple[str, ...]) -> list[str]:
    """Full names of the linear layers that `target_modules` chooses.

    Raises:
        ConfigError: C171, a name matches no linear layer.
    """
    linears = linear_names(hf)
    if wanted == "all-linear":
        return linears
    wanted = (wanted,) if isinstance(wanted, str) else tuple(wanted)
    for target in wanted:
        if not any(_matches(name, target) for name in linears):
            known = sorted({name.rsplit(".", 1)[-1] for name in linears})
            other = any(_matches(name, target) for name, _ in hf.named_modules())
            raise ConfigError(
                "C171",
                f"`{target}` is not a linear layer of this model"
                + (" (train it whole with modules_to_save)" if other else ""),
                where="tuner.target_modules",
                fix=f"{did_you_mean(target, known)}  linear layers: {', '.join(known)}".strip(),
            )
    return [name for name in linears if any(_matches(name, target) for target in wanted)]


def suffixes(hf: PreTrainedModel, targets: list[str]) -> list[str]:
    """The shortest list PEFT reads as exactly these layers: last names, else full names."""
    last = {name.rsplit(".", 1)[-1] for name in targets}
    chosen = {n for n, _ in hf.named_modules() if n.rsplit(".", 1)[-1] in last}
    return sorted(last) if chosen == set(targets) else sorted(targets)


def deltas(hf: nn.Module) -> dict[str, LowRankLinear]:
    """All layers with a delta, by full name."""
    return {n: m for n, m in hf.named_modules() if isinstance(m, LowRankLinear)}


def trained_whole(hf: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters of the modules to save, by full name."""
    return {
        f"{name}.{key}": module.get_parameter(key)
        for name, module in hf.named_modules()
        for key in originals(module)
    }


def originals(module: nn.Module) -> dict[str, torch.Tensor]:
    """Frozen originals of a module trained whole, by parameter name; empty for others."""
    kept = module.named_buffers(recurse=False)
    return {n.removeprefix(_ORIGINAL): t for n, t in kept if n.startswith(_ORIGINAL)}


@contextmanager
def reference(model: nn.Module) -> Iterator[None]:
    """Within it `model` computes what it did before `apply`."""
    hf = transformers_model(model)
    layers = deltas(hf).values()
    whole = [(module, key) for module in hf.modules() for key in originals(module)]
    trained = {(id(module), key): module.get_parameter(key) for module, key in whole}
    try:
        for layer in layers:
            layer.enabled = False
        for module, key in whole:
            frozen = nn.Parameter(originals(module)[key], requires_grad=False)
            module.register_parameter(key, frozen)
        yield
    finally:
        for layer in layers:
            layer.enabled = True
        for module, key in whole:
            module.register_parameter(key, trained[id(module), key])


def merge(model: nn.Module) -> None:
    """Turns layers with deltas back into plain ones with the delta in the weight."""
    hf = transformers_model(model)
    for name, layer in deltas(hf).items():
        hf.set_submodule(name, layer.merged())
    for module in hf.modules():
        for key, original in originals(module).items():
            trained = module.get_parameter(key).detach().to(original.dtype)
            module.register_parameter(key, nn.Parameter(trained, requires_grad=False))
            delattr(module, _ORIGINAL + key)
    head = hf.get_output_embeddings()
    if head is not None and head.weight is not hf.get_input_embeddings().weight:
        hf.config.tie_word_embeddings = False


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def module_names(hf: PreTrainedModel, wanted: tuple[str, ...], where: str) -> list[str]:
    """Full names of the modules that `wanted` names; C172 if there is none of a name."""
    names = [name for name, _ in hf.named_modules()]
    for target in wanted:
        if not any(_matches(name, target) for name in names):
            known = sorted({name.rsplit(".", 1)[-1] for name in names} - {""})
            raise ConfigError(
                "C172",
                f"this model has no module `{target}`",
                where=where,
                fix=did_you_mean(target, known) or f"modules: {', '.join(known)[:200]}",
            )
    return [name for name in names if any(_matches(name, target) for target in wanted)]


def _train_whole(module: nn.Module) -> None:
    """Trains a copy of a module's parameters; the originals stay for `reference`.

    A tied weight is copied apart, as in PEFT: the other user of it keeps the frozen original.
    """
    for inner in module.modules():
        for key, original in dict(inner.named_parameters(recurse=False)).items():
            copy = original.detach().clone().to(wide(original.dtype))
            inner.register_buffer(_ORIGINAL + key, original.detach(), persistent=False)
            inner.register_parameter(key, nn.Parameter(copy))
