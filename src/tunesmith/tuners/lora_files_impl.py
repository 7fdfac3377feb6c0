"""Adapters on disk, in PEFT's format: adapter_config.json and adapter_model.safetensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tunesmith.errors import ConfigError, EnvironmentFault
from tunesmith.tuners.lora import LoraConfig
from tunesmith.tuners.lora_impl import deltas, suffixes, trained_whole, transformers_model

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
VIRTUAL = ("PROMPT_TUNING", "PREFIX_TUNING")
"""What PEFT calls adapters that are virtual tokens."""
_PREFIX = "base_model.model."
# our parameter -> the key PEFT gives it in a file
_KEYS = {
    "lora_A": "lora_A.weight",
    "lora_B": "lora_B.weight",
    "lora_magnitude": "lora_magnitude_vector",
}
# fields of PEFT's config that change what an adapter computes and that we can't honour
_UNSUPPORTED = (
    "alpha_pattern", "rank_pattern", "layers_to_transform", "exclude_modules",
    "layer_replication", "lora_bias", "target_parameters",
    "trainable_token_indices", "alora_invocation_tokens", "arrow_config", "use_qalora",
    "use_bdlora", "kasa_config", "velora_config", "monteclora_config",
)  # fmt: skip


def save(model: nn.Module, path: Path, config: LoraConfig) -> None:
    """Writes the adapter; the weights first, so that a config always has its weights."""
    hf = transformers_model(model)
    layers = deltas(hf)
    path.mkdir(parents=True, exist_ok=True)
    save_file(tensors(model), path / WEIGHTS, metadata={"format": "pt"})
    fields: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": hf.name_or_path or None,
        "inference_mode": True,
        "r": config.r,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": config.lora_dropout,
        "target_modules": suffixes(hf, list(layers)),
        "modules_to_save": list(config.modules_to_save) or None,
        "use_rslora": config.use_rslora,
        "use_dora": config.use_dora,
        "fan_in_fan_out": any(layer.transposed for layer in layers.values()),
        "bias": config.bias,
    }
    text = json.dumps(fields, indent=2, sort_keys=True) + "\n"
    (path / CONFIG).write_text(text, encoding="utf-8")


def tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """The adapter's tensors by the names PEFT gives them."""
    hf = transformers_model(model)
    found = {
        f"{_PREFIX}{name}.{_KEYS[key]}": p
        for name, layer in deltas(hf).items()
        for key, p in layer.named_parameters(recurse=False)
        if key in _KEYS
    }
    found |= {f"{_PREFIX}{name}": p for name, p in trained_whole(hf).items()}
    return {name: p.detach().contiguous().cpu() for name, p in found.items()}


def read_config(path: Path) -> LoraConfig:
    """The tuner's config of an adapter on disk.

    Raises:
        EnvironmentFault: E209, no adapter there; E210, an adapter of another kind.
    """
    file = path / CONFIG
    if not file.is_file() or not (path / WEIGHTS).is_file():
        missing = WEIGHTS if file.is_file() else CONFIG
        raise EnvironmentFault(
            "E209",
            f"no adapter at {path}: {missing} is missing",
            fix="give a directory with adapter_config.json and adapter_model.safetensors",
        )
    fields = json.loads(file.read_text(encoding="utf-8"))
    odd = [name for name in _UNSUPPORTED if fields.get(name)]
    if fields.get("peft_type") in VIRTUAL:
        raise ConfigError(
            "E234",
            f"{path} is virtual tokens before a model, and can't be merged into weights",
            where=str(file),
            why="They are read before every text; no weight of the model could stand for them.",
            fix="keep it beside its base: chat, generate and serve take it as it is",
        )
    if fields.get("peft_type") != "LORA" or odd or fields.get("bias", "none") != "none":
        kind = fields.get("peft_type")
        raise EnvironmentFault(
            "E210",
            f"this adapter is of a kind we can't compute: {kind} {' '.join(odd)}".rstrip(),
            where=str(file),
            fix="merge it with PEFT and use the merged model",
        )
    wanted = fields["target_modules"]
    return LoraConfig(
        r=fields["r"],
        lora_alpha=fields["lora_alpha"],
        lora_dropout=fields.get("lora_dropout", 0.0),
        target_modules=wanted if wanted == "all-linear" else _names(wanted, file),
        modules_to_save=tuple(fields.get("modules_to_save") or ()),
        use_rslora=fields.get("use_rslora", False),
        use_dora=fields.get("use_dora", False),
    )


def load(model: nn.Module, path: Path) -> None:
    """Copies an adapter's tensors into a model that the same config was applied to."""
    read_config(path)
    hf = transformers_model(model)
    stored = load_file(path / WEIGHTS)
    places: dict[str, nn.Parameter] = {}
    for name, layer in deltas(hf).items():
        for key, parameter in layer.named_parameters(recurse=False):
            if key in _KEYS:
                places[f"{_PREFIX}{name}.{_KEYS[key]}"] = parameter
    places |= {f"{_PREFIX}{name}": p for name, p in trained_whole(hf).items()}
    wrong = sorted(stored.keys() ^ places.keys())
    wrong += [n for n in stored.keys() & places.keys() if stored[n].shape != places[n].shape]
    if wrong:
        raise EnvironmentFault(
            "E210",
            f"this adapter does not fit the model: {len(wrong)} tensors differ, e.g. {wrong[0]}",
            where=str(path),
            fix="use the base it was trained on, and the same r and target_modules",
        )
    with torch.no_grad():
        for name, parameter in places.items():
            parameter.copy_(stored[name])


def _names(wanted: Any, file: Path) -> tuple[str, ...]:
    if isinstance(wanted, str):
        raise EnvironmentFault(
            "E210",
            f"target_modules is the pattern {wanted!r}, which is not supported",
            where=str(file),
            fix="list the layers' names instead",
        )
    return tuple(sorted(wanted))
