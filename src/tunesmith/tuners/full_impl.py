"""How full fine-tuning and freezing change a model, and how whole models are written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from tunesmith.errors import EnvironmentFault
from tunesmith.tuners.lora_impl import settle, transformers_model, wide

_BEFORE = "weights_before_training"


def train_all(model: nn.Module) -> None:
    """Every parameter trained, in float32 or wider; see `LanguageModel.settle` for the rest."""
    transformers_model(model).requires_grad_(True)
    widen_trained(model)


def widen_trained(model: nn.Module) -> None:
    """Trained parameters to float32; a LanguageModel without master weights takes that back."""
    for parameter in transformers_model(model).parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(wide(parameter.dtype))
    settle(model)


def keep_reference(model: nn.Module) -> None:
    """Copies the trained weights as they are now, for `reference`."""
    hf = transformers_model(model)
    hf.__dict__[_BEFORE] = {
        name: p.detach().clone() for name, p in hf.named_parameters() if p.requires_grad
    }


@contextmanager
def reference(model: nn.Module) -> Iterator[None]:
    """Swaps the kept weights in; a model without any is an error of the caller."""
    hf = transformers_model(model)
    before = hf.__dict__[_BEFORE]
    parameters = dict(hf.named_parameters())
    now = {name: parameters[name].data for name in before}
    try:
        for name, tensor in before.items():
            parameters[name].data = tensor
        yield
    finally:
        for name, tensor in now.items():
            parameters[name].data = tensor


def save_weights(model: nn.Module, path: Path) -> None:
    """config.json, generation_config.json and sharded safetensors, as transformers writes them."""
    transformers_model(model).save_pretrained(path)


def load_weights(model: nn.Module, path: Path) -> None:
    """Copies a directory's weights into the model.

    Raises:
        EnvironmentFault: E209, no weights there; E210, names or shapes differ.
    """
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise EnvironmentFault("E209", f"no *.safetensors at {path}", fix="give a saved model")
    hf = transformers_model(model)
    places = dict(hf.named_parameters(remove_duplicate=False))
    for file in files:
        for name, tensor in load_file(file).items():
            if name not in places or places[name].shape != tensor.shape:
                raise EnvironmentFault(
                    "E210", f"{name} does not fit this model", where=str(file), fix="same base?"
                )
            with torch.no_grad():
                places[name].copy_(tensor)
