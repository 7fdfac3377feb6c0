"""Memory, time and disk of a recipe before any work; what would make it fit.

Peak memory is the sum of: weights, gradients and optimizer state of what is trained, activations
of the largest micro-batch, one chunk of logits, and the process itself. Bytes of activations are
counted from the layers' shapes (see `activation_bytes`); time is measured on a few real steps.
"""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from typing import Any

import psutil

from tunesmith import platform
from tunesmith.compose import data, model, train
from tunesmith.compose.display import Display
from tunesmith.errors import ResourceError
from tunesmith.recipe.sections import EvalConfig, LogConfig, OutputConfig, Recipe
from tunesmith.tuners import base as tuners

PROCESS_GB = 0.45
"""Resident memory of Python, torch and transformers after import, measured on Linux x86-64."""
LOGITS_GB = 3 * 0.067
"""A chunk of float32 logits, its softmax and the slope: see losses/tokens.py."""
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
PROBE_STEPS = 4


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
    held = BYTES[model.memory_dtype(recipe, dtype)]
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


def estimate(recipe: Recipe, *, probe: bool = True, display: Display | None = None) -> dict:
    """What a recipe would need.

    Args:
        recipe: What would be trained.
        probe: Measure time on a few real steps (in a temporary directory).
        display: Shows what is found on the way.

    Returns:
        memory_gb by purpose, available_gb, fits, steps, tokens, disk_gb, seconds (None without
        probe), and `variants`: cheaper settings with their memory.
    """
    display = display or Display()
    platform.prepare(recipe.train.threads)
    origin = model.origin(recipe)
    data.check_sources(recipe)
    recipe = train.fit_context(recipe, origin, display)
    factory = data.encoder_factory(recipe, origin.tokenizer_dir)
    sets = data.datasets(recipe, factory, factory.build(), display.line)
    loader = data.train_loader(recipe, sets[0], rank=0, world=1, padded=False)
    steps = loader.total_steps(recipe.train.num_train_epochs, recipe.train.max_steps)
    dtype = platform.choose_dtype(recipe.train.dtype)
    need = memory(recipe, origin, dtype, largest_batch(recipe, sets[0]))
    available = available_gb()
    tokens = int(sets[0].lengths.sum())
    return {
        "memory_gb": {k: round(v, 3) for k, v in dataclasses.asdict(need).items()},
        "total_gb": round(need.total, 3),
        "available_gb": round(available, 3),
        "fits": need.total <= available,
        "device": platform.device(),
        "dtype": dtype,
        "steps": steps,
        "tokens_per_epoch": tokens,
        "disk_gb": round(disk_gb(recipe, need), 3),
        "variants": variants(recipe, origin, dtype, sets[0]),
        "devices_gb": {size: need.total <= size for size in (8, 12, 16, 24, 40, 80)},
        **(_probe(recipe, steps) if probe else {"seconds": None, "tokens_per_second": None}),
    }


def largest_batch(recipe: Recipe, dataset: Any) -> int:
    """Tokens of the largest micro-batch: the longest rows together, or full bins."""
    size = recipe.train.per_device_train_batch_size
    if recipe.data.packing == "pack":
        return size * recipe.data.max_length
    longest = sorted(dataset.lengths.tolist(), reverse=True)[:size]
    return int(sum(longest))


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
    return recipe.train.per_device_train_batch_size * recipe.data.max_length


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


def _probe(recipe: Recipe, steps: int) -> dict[str, float]:
    """Runs a few real steps; the first, which warms up, is not counted."""
    with tempfile.TemporaryDirectory() as folder:
        short = dataclasses.replace(
            recipe,
            train=dataclasses.replace(
                recipe.train, max_steps=PROBE_STEPS, save_steps="no", logging_steps=1
            ),
            eval=EvalConfig(steps="no"),
            output=OutputConfig(dir=folder),
            log=LogConfig(),
        )
        lines = [line for line in train.train(short).metrics() if "loss" in line]
    first, last = lines[0], lines[-1]
    elapsed = last["elapsed_s"] - first["elapsed_s"]
    taken = max(last["step"] - first["step"], 1)
    return {
        "seconds": round(steps * elapsed / taken, 1),
        "tokens_per_second": round((last["tokens"] - first["tokens"]) / max(elapsed, 1e-9), 1),
    }
