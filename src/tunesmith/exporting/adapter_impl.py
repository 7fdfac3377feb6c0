"""What a LoRA adapter in PEFT's format does to each weight of its base, read tensor by tensor.

Legend: `I` input width, `O` output width, `R` rank.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tunesmith.errors import ExportError
from tunesmith.exporting.shards_impl import Stored, headers
from tunesmith.tuners.prompt_impl import KINDS, no_merge

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_PARTS = ("A", "B", "embedding_A", "embedding_B", "magnitude_vector")
_LORA = re.compile(rf"(.+)\.lora_({'|'.join(_PARTS)})(?:\.default)?(?:\.(weight|bias))?")
# What PEFT calls LoRA beyond the delta B·A: fields that change what is computed
_UNSUPPORTED = (
    "layer_replication", "target_parameters", "trainable_token_indices", "ensure_weight_tying",
    "alora_invocation_tokens", "arrow_config", "use_qalora", "use_bdlora", "kasa_config",
    "velora_config", "monteclora_config", "megatron_config",
)  # fmt: skip
# Initialisations that leave the base as it was; others move a part of it into the adapter
_HARMLESS = (None, True, False, "gaussian", "eva", "orthogonal")

Place = Literal["linear", "transposed"]
"""How a weight is stored: (O, I), or (I, O) as in GPT-2's Conv1D and in embeddings."""


@dataclass(frozen=True)
class Delta:
    """The tensors that change one module, by their part of the name: A, B, magnitude_vector …"""

    parts: dict[str, Stored]
    scale: float

    def merged(self, weight: Tensor, place: Place) -> Tensor:
        """The weight with its delta, in float32 (float64 for a float64 weight)."""
        wide = torch.promote_types(weight.dtype, torch.float32)
        names = ("A", "B") if "A" in self.parts else ("embedding_A", "embedding_B")
        A_RI, B_OR = (self.parts[name].read().to(wide) for name in names)
        weight_OI = weight.to(wide).t() if place == "transposed" else weight.to(wide)
        merged_OI = weight_OI + (B_OR @ A_RI) * self.scale  # as a live layer merges itself
        if "magnitude_vector" in self.parts:  # DoRA, arXiv:2402.09353, equation 5
            norm_O = torch.linalg.vector_norm(merged_OI, dim=1)
            magnitude_O = self.parts["magnitude_vector"].read().to(wide).reshape(-1)
            merged_OI = merged_OI * (magnitude_O / norm_O)[:, None]
        return merged_OI.t() if place == "transposed" else merged_OI


@dataclass(frozen=True)
class Adapter:
    """An adapter directory, by what it does: deltas by module, whole tensors by name."""

    path: Path
    deltas: dict[str, Delta]
    whole: dict[str, Stored]
    saved: frozenset[str]
    """Modules trained whole, as the config names them: last names or full names."""

    def saves(self, name: str) -> bool:
        """Whether a weight belongs to a module that was trained whole, apart from what it is
        tied to."""
        module = name.rpartition(".")[0]
        return any(module == one or module.endswith(f".{one}") for one in self.saved)

    def apply(self, name: str, weight: Tensor, place: Place) -> Tensor:
        """What this adapter makes of a weight; in float32 if it changed by a delta."""
        whole = self.whole.get(name)
        if whole is not None:
            weight = whole.read()
        module, _, kind = name.rpartition(".")
        delta = self.deltas.get(module)
        if delta is None:
            return weight
        if kind == "weight":
            return delta.merged(weight, place)
        if kind == "bias" and "B.bias" in delta.parts:
            return weight.float() + delta.parts["B.bias"].read().float() * delta.scale
        return weight

    def changes(self, name: str) -> bool:
        """Whether `apply` would change this weight."""
        module, _, kind = name.rpartition(".")
        delta = self.deltas.get(module)
        by_delta = delta is not None and (kind == "weight" or "B.bias" in delta.parts)
        return name in self.whole or by_delta


def read(path: Path) -> Adapter:
    """Reads an adapter's config and headers.

    Raises:
        ExportError: X101, there is no adapter; X102, it is of a kind that can't be merged; X103,
            a file can't be read.
    """
    config = _config(path)
    deltas: dict[str, dict[str, Stored]] = {}
    whole: dict[str, Stored] = {}
    for tensor in headers(path / WEIGHTS):
        name = tensor.name.removeprefix(_PREFIX)
        found = _LORA.fullmatch(name)
        if found is not None:
            module, part, kind = found.groups()
            part = f"{part}.bias" if kind == "bias" else part
            deltas.setdefault(module, {})[part] = tensor
        elif "lora_" in name or "token_adapter" in name:
            raise _refused(path, f"the tensor `{tensor.name}`")
        elif ".original_module." not in name:  # a copy from before training, kept by PEFT
            name = name.replace(".base_layer.", ".").replace(".modules_to_save.", ".")
            whole[name.replace(".default.", ".")] = tensor
    made = {module: _delta(path, config, module, parts) for module, parts in deltas.items()}
    return Adapter(path, made, whole, frozenset(config.get("modules_to_save") or ()))


def _config(path: Path) -> dict[str, Any]:
    file = path / CONFIG
    if not file.is_file():
        raise ExportError(
            "X101",
            f"there is no adapter at {path}: {CONFIG} is missing",
            fix="name a LoRA run or an adapter directory; full models need no merging",
        )
    try:
        config = json.loads(file.read_text("utf-8"))
        kind = config["peft_type"]
    except (ValueError, TypeError, KeyError) as error:
        why = f"{type(error).__name__}: {error}"
        raise ExportError("X103", f"{CONFIG} can't be read", where=str(file), why=why) from None
    if kind in KINDS:
        raise no_merge(f"{path} ({kind})")
    if kind != "LORA":
        raise _refused(path, f"a {kind} adapter")
    odd = [name for name in _UNSUPPORTED if config.get(name)]
    if odd:
        raise _refused(path, ", ".join(f"`{name}`" for name in odd))
    init = config.get("init_lora_weights", True)
    if init not in _HARMLESS:
        raise _refused(path, f"init_lora_weights={init!r}, which also changed the base,")
    if not (path / WEIGHTS).is_file():
        pickled = (path / "adapter_model.bin").is_file()
        raise ExportError(
            "X101",
            f"there is no adapter at {path}: {WEIGHTS} is missing"
            + (", and adapter_model.bin is a pickle, which is never read" if pickled else ""),
            fix="save it again with a peft of today",
        )
    return config


def _delta(path: Path, config: dict[str, Any], module: str, parts: dict[str, Stored]) -> Delta:
    pair = ("A", "B") if "A" in parts else ("embedding_A", "embedding_B")
    if any(name not in parts for name in pair):
        missing = " and ".join(f"lora_{name}" for name in pair if name not in parts)
        raise ExportError("X103", f"`{module}` lacks {missing}", where=str(path / WEIGHTS))
    if any(len(parts[name].shape) != 2 for name in pair):
        raise _refused(path, f"the convolution or stack of experts `{module}`")
    rank = parts[pair[0]].shape[0]
    alpha = _by_pattern(config.get("alpha_pattern"), module, config.get("lora_alpha", 8), path)
    root = config.get("use_rslora", False)  # arXiv:2312.03732
    return Delta(parts, alpha / (rank**0.5 if root else rank))


def _by_pattern(patterns: dict[str, float] | None, module: str, default: float, path: Path):
    """The value of the first pattern that a module's name ends in, by PEFT's rule."""
    for pattern, value in (patterns or {}).items():
        try:
            if re.fullmatch(rf"(.*\.)?({pattern})", module):
                return value
        except re.error as error:
            raise ExportError(
                "X103", f"alpha_pattern {pattern!r}: {error}", where=str(path / CONFIG)
            ) from None
    return default


def _refused(path: Path, what: str) -> ExportError:
    return ExportError(
        "X102",
        f"{what} can't be merged",
        where=str(path),
        why="Only LoRA deltas of linear layers and embeddings, DoRA and whole modules can.",
        fix="merge it with PEFT (merge_and_unload) and go on with the merged model",
    )
