"""Memory and disk of a recipe before any work; what would make it fit.

Peak memory is the sum of: weights, gradients and optimizer state of what is trained, activations
of the largest micro-batch, one chunk of logits, and the process itself. Bytes of activations are
counted from the layers' shapes (see `activation_bytes`).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import psutil

from tunesmith import platform
from tunesmith.compose import build, model
from tunesmith.compose.data import max_forward_tokens
from tunesmith.errors import ResourceError
from tunesmith.recipe.sections import Recipe
from tunesmith.tuners import base as tuners

PROCESS_GB = 0.45
"""Resident memory of Python, torch and transformers after import, measured on Linux x86-64."""
LOGITS_GB = 3 * 0.067
"""A chunk of float32 logits, its softmax and the slope: see losses/tokens.py."""
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Memory:
    """Gigabytes (1e9 bytes) by purpose."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float = LOGITS_GB
    process: float = PROCESS_GB

    @property
    def total(self) -> float:
        return sum(dataclasses.astuple(self))

    def largest(self) -> str:
        """The three largest parts, for error messages."""
        parts = sorted(dataclasses.asdict(self).items(), key=lambda item: -item[1])[:3]
        return " · ".join(f"{name} {value:.1f}" for name, value in parts)


def memory(recipe: Recipe, origin: Any, dtype: str, longest_batch: int) -> Memory:
    """Peak memory of a recipe, from shapes alone.

    Args:
        recipe: What would be trained.
        origin: Where the model comes from.
        dtype: Compute type.
        longest_batch: Tokens of the largest micro-batch.
    """
    skeleton = model.skeleton(origin, recipe.model)
    tuners.build(recipe.tuner).apply(skeleton)
    parameters = list(skeleton.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    frozen = sum(p.numel() for p in parameters) - trained
    held = BYTES[build.memory_dtype(recipe, dtype)]
    wide = 4 if recipe.train.master_weights else BYTES[dtype]
    return Memory(
        weights=(frozen * held + trained * wide) / 1e9,
        gradients=trained * wide / 1e9,
        optimizer=2 * trained * wide / 1e9,
        activations=activation_bytes(skeleton.config, recipe, BYTES[dtype]) * longest_batch / 1e9,
    )


def activation_bytes(config: Any, recipe: Recipe, size: int) -> float:
    """Bytes kept for the backward pass, a token.

    A decoder layer keeps its two norm inputs and outputs (4 D), q, k, v and the attention output
    (2 D + 2 D_kv), and gate, up and their product (3 F); checkpointing keeps one D a layer and one
    layer's worth while it is recomputed.
    """
    shape = config.get_text_config()
    width = shape.hidden_size
    inner = vars(shape).get("intermediate_size") or 4 * width
    heads = shape.num_attention_heads
    shared = (vars(shape).get("num_key_value_heads") or heads) / heads
    layer = (6 + 2 * shared) * width + 3 * inner
    layers = shape.num_hidden_layers
    if recipe.train.activation_checkpointing:
        return size * (layers * width + layer)
    return size * layers * layer


def largest_batch(recipe: Recipe, dataset: Any) -> int:
    """Tokens of the largest forward pass: the longest rows together, or full bins, up to the limit
    on one pass (a row is never cut); with what is sampled, which no limit cuts."""
    size = recipe.train.per_device_train_batch_size
    longest = sorted(dataset.lengths.tolist(), reverse=True)[:size]
    packed = recipe.data.packing != "none" or recipe.data.streaming  # longer rows may come
    whole = size * recipe.data.max_length if packed else int(sum(longest))
    rows = math.ceil(whole / max(float(dataset.lengths.mean()), 1.0)) if packed else size
    sampled, limit = sampled_tokens(recipe, rows), max_forward_tokens(recipe)
    if sampled or limit is None:
        return whole + sampled
    open_end = recipe.data.packing == "blocks" or recipe.data.streaming
    one = recipe.data.max_length if open_end else longest[0]
    return min(whole, max(limit, one))


def sampled_tokens(recipe: Recipe, rows: int) -> int:
    """Tokens of the answers that a stage samples to so many prompts, at most; usually 0."""
    stage = vars(recipe.stage)
    return rows * stage.get("num_generations", 1) * stage.get("max_completion_length", 0)


def variants(recipe: Recipe, origin: Any, dtype: str, dataset: Any) -> list[dict[str, Any]]:
    """Cheaper settings, each with the memory it would take."""
    half = recipe.data.max_length // 2
    changes = {
        "train.activation_checkpointing=true": ("train", {"activation_checkpointing": True}),
        "train.per_device_train_batch_size=1": ("train", {"per_device_train_batch_size": 1}),
        f"data.max_length={half}": ("data", {"max_length": half}),
    }
    rows = []
    for text, (section, values) in changes.items():
        part = dataclasses.replace(vars(recipe)[section], **values)
        changed = dataclasses.replace(recipe, **{section: part})
        longest = min(largest_batch(changed, dataset), _cap(changed))
        rows.append(
            {"change": text, "total_gb": round(memory(changed, origin, dtype, longest).total, 3)}
        )
    return rows


def _cap(recipe: Recipe) -> int:
    size = recipe.train.per_device_train_batch_size
    return size * recipe.data.max_length + sampled_tokens(recipe, size)


def check_fits(recipe: Recipe, origin: Any, dtype: str, dataset: Any) -> Memory:
    """The estimate, or an error naming what would make it fit.

    Raises:
        ResourceError: M301, the run needs more memory than there is.
    """
    need = memory(recipe, origin, dtype, largest_batch(recipe, dataset))
    available = available_gb()
    if need.total > available:
        cheaper = [
            v for v in variants(recipe, origin, dtype, dataset) if v["total_gb"] < need.total
        ]
        fixes = " | ".join(f"{v['change']} → {v['total_gb']:.1f} GB" for v in cheaper)
        raise ResourceError(
            "M301",
            f"this run needs about {need.total:.1f} GB but {platform.device()} has "
            f"{available:.1f} GB free",
            why=f"largest: {need.largest()}",
            fix=f"(any one) {fixes}",
        )
    return need


def available_gb() -> float:
    """Free device memory, or free main memory, in GB."""
    if platform.device() == "cuda":
        import torch

        return torch.cuda.mem_get_info()[0] / 1e9
    return psutil.virtual_memory().available / 1e9


def disk_gb(recipe: Recipe, need: Memory) -> float:
    """Checkpoints kept at once (one more while saving) and final/."""
    kept = (recipe.train.save_total_limit or 10) + 2
    one = need.gradients + need.optimizer  # trained weights are as large as their gradients
    return kept * one + need.weights
