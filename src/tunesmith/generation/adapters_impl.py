"""LoRA adapters in PEFT's format as deltas beside a model, so that requests may choose one each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from tunesmith.errors import ConfigError
from tunesmith.models.decoding import Delta
from tunesmith.tuners.lora_files_impl import WEIGHTS, read_config

_PREFIX = "base_model.model."


def deltas_of(adapter: Any) -> Mapping[str, Delta]:
    """Deltas by module name.

    Args:
        adapter: A folder in PEFT's format, or deltas, which are returned as they are.

    Raises:
        ConfigError: G123, it holds more than low-rank deltas (DoRA, whole modules).
        EnvironmentFault: E209, no adapter there; E210, an adapter of another kind.
    """
    if isinstance(adapter, Mapping):
        return adapter
    path = Path(adapter)
    config = read_config(path)
    if config.use_dora or config.modules_to_save:
        what = "DoRA" if config.use_dora else "modules trained whole"
        raise ConfigError(
            "G123",
            f"{path} can't be used beside others: it has {what}",
            fix="tunesmith merge it and load the merged model",
        )
    rank = config.r**0.5 if config.use_rslora else config.r
    stored = load_file(path / WEIGHTS)
    ends = (".lora_A.weight", ".lora_B.weight")
    names = sorted({key.removesuffix(end) for key in stored for end in ends if key.endswith(end)})
    odd = sorted(stored.keys() - {name + end for name in names for end in ends})
    if odd:
        raise ConfigError("G123", f"{path} can't be used beside others: it has {odd[0]}")
    return {
        name.removeprefix(_PREFIX): Delta(
            stored[name + ends[0]], stored[name + ends[1]], config.lora_alpha / rank
        )
        for name in names
    }
