"""How partial training chooses what to train."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from tunesmith.errors import ConfigError
from tunesmith.tuners.freeze import FreezeConfig
from tunesmith.tuners.full_impl import widen_trained
from tunesmith.tuners.lora_impl import module_names, transformers_model


def train_some(model: nn.Module, config: FreezeConfig) -> None:
    """Freezes all but the chosen layers and modules; see `FreezeTuner.apply`."""
    hf = transformers_model(model)
    layers = layers_of(hf)
    if abs(config.num_layers) > len(layers):
        raise ConfigError(
            "C173",
            f"num_layers is {config.num_layers}, but this model has {len(layers)} layers",
            where="tuner.num_layers",
            fix=f"between -{len(layers)} and {len(layers)}",
        )
    n = config.num_layers
    chosen: list[nn.Module] = list(layers[-n:] if n > 0 else layers[:-n] if n < 0 else [])
    chosen += [hf.get_submodule(name) for name in module_names(hf, config.modules, "tuner.modules")]
    if not chosen:
        raise ConfigError(
            "C174",
            "num_layers is 0 and modules is empty: nothing would be trained",
            where="tuner",
            fix="set num_layers or modules",
        )
    hf.requires_grad_(False)
    for module in chosen:
        module.requires_grad_(True)
    widen_trained(model)


def layers_of(hf: PreTrainedModel) -> nn.ModuleList:
    """The decoder layers: the first module list as long as the config's number of layers."""
    count = hf.config.get_text_config().num_hidden_layers
    for module in hf.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ConfigError(
        "C173",
        f"the layers of {hf.config.model_type} can't be found",
        where="tuner.num_layers",
        fix="num_layers=0 and name what to train in tuner.modules",
    )
