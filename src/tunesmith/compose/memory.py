"""Memory and disk of a recipe before any work; what would make it fit.

Peak memory is the sum of: weights, gradients and optimizer state of what is trained, models held
beside it (reward models, a teacher, the reference of stages that sample), keys and values of
answers in the making, activations of the largest forward pass, one chunk of logits, and the
process itself. Bytes of activations are counted from the layers' shapes (see `activation_bytes`).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from tunesmith import platform
from tunesmith.compose import build, model, quantising, source
from tunesmith.compose.data import max_forward_tokens
from tunesmith.errors import ResourceError
from tunesmith.recipe.sections import ModelConfig, Quantization, Recipe
from tunesmith.rewards import base as rewards
from tunesmith.stages.rollout_impl import RolloutStage
from tunesmith.tuners import base as tuners
from tunesmith.types import Stage

PROCESS_GB = 0.45
"""Resident memory of Python, torch and transformers after import, measured on Linux x86-64."""
LOGITS_GB = 3 * 0.067
"""A chunk of float32 logits, its softmax and the slope: see losses/tokens.py."""
SAMPLED_ROWS = 32
"""Answers in the making at once, and under it the most bytes their keys and values may take: see
generation/torch.py."""
CACHE_BYTES = 2**30
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class Layout(NamedTuple):
    """How a model's batches are laid out; `compose.build` decides so when it has its weights."""

    padded: bool
    shared: bool
    """Whether the answers to a prompt stand behind one copy of it."""


@dataclass(frozen=True)
class Memory:
    """Gigabytes (1e9 bytes) by purpose."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    beside: float = 0.0
    """Other models: of rewards, a teacher, the copy of trained weights that is the reference."""
    answers: float = 0.0
    """Keys and values of answers that are being sampled; what PPO's critic is fitted to."""
    logits: float = LOGITS_GB
    process: float = PROCESS_GB

    @property
    def total(self) -> float:
        return sum(dataclasses.astuple(self))

    def largest(self) -> str:
        """The three largest parts, for error messages."""
        parts = sorted(dataclasses.asdict(self).items(), key=lambda item: -item[1])[:3]
        return " · ".join(f"{name} {value:.1f}" for name, value in parts)


def memory(
    recipe: Recipe, origin: Any, dtype: str, longest_batch: int, stage: Stage | None = None
) -> Memory:
    """Peak memory of a recipe, from shapes alone.

    Args:
        recipe: What would be trained.
        origin: Where the model comes from.
        dtype: Compute type.
        longest_batch: Tokens of the largest forward pass.
        stage: What is trained, which may need other models; None: it needs none.
    """
    skeleton = model.skeleton(origin, recipe.model)
    tuner = tuners.build(recipe.tuner)
    held = BYTES[build.memory_dtype(recipe, dtype)]
    saved = quantising.saved_bytes(skeleton, recipe, held)
    tuner.apply(skeleton)
    parameters = list(skeleton.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    frozen = sum(p.numel() for p in parameters) - trained
    wide = 4 if recipe.train.master_weights else BYTES[dtype]
    others = {spec: skeleton_of(spec, recipe.output.dir) for spec in other_models(recipe)}
    beside = sum(p.numel() for spec in other_models(recipe) for p in others[spec].parameters())
    activations = activation_bytes(skeleton.config, recipe, BYTES[dtype])
    teacher = others.get(vars(recipe.stage).get("teacher", ""))
    if teacher is not None:  # it reads while the student's activations are kept, and keeps none
        activations += BYTES[dtype] * layer_numbers(teacher.config)
    copied = trained * wide if _copies_reference(stage, tuner) else 0
    cached = min(cache_bytes(skeleton.config, BYTES[dtype]) * _held_tokens(recipe), CACHE_BYTES)
    return Memory(
        weights=(frozen * held + trained * wide - saved) / 1e9,
        gradients=trained * wide / 1e9,
        optimizer=2 * trained * wide / 1e9,
        activations=activations * longest_batch / 1e9,
        beside=(beside * BYTES[dtype] + copied) / 1e9,
        answers=(cached + critic_bytes(skeleton.config, recipe)) / 1e9,
    )


def other_models(recipe: Recipe) -> list[str]:
    """Models that a run loads beside its own: reward models, and a teacher."""
    stage = vars(recipe.stage)
    found = [one.path for one in stage.get("rewards", ()) if rewards.is_model(one.path)]
    return [*found, stage["teacher"]] if stage.get("teacher") else found


def skeleton_of(spec: str, root: str) -> Any:
    """A model by name, adapters merged, without weights.

    Raises:
        EnvironmentFault: E201, no such model.
    """
    found = source.locate(spec, root)
    config, start = ModelConfig(path=found.base), model.Origin(found, Path(), "")
    if not found.base and found.checkpoint is not None:  # of a model from scratch
        config = model.run_recipe(found.checkpoint).model
        start = model.Origin(None, Path(), "")
    return model.skeleton(start, config)


def _copies_reference(stage: Stage | None, tuner: Any) -> bool:
    """Whether the weights of before training are kept: an adapter is switched off instead."""
    needed = isinstance(stage, RolloutStage) and stage.needs_reference
    return needed and isinstance(tuner, tuners.KeepsReference)


def cache_bytes(config: Any, size: int) -> int:
    """Bytes of keys and values of all layers, a token."""
    shape = config.get_text_config()
    heads = shape.num_attention_heads
    shared = vars(shape).get("num_key_value_heads") or heads
    wide = vars(shape).get("head_dim") or shape.hidden_size // heads
    return 2 * size * shape.num_hidden_layers * shared * wide


def _held_tokens(recipe: Recipe) -> int:
    """Tokens of the answers in the making at once, with their prompts; 0 where none are sampled."""
    longest = vars(recipe.stage).get("max_completion_length", 0)
    return SAMPLED_ROWS * (recipe.data.max_length + longest) if longest else 0


def activation_bytes(config: Any, recipe: Recipe, size: int) -> float:
    """Bytes kept for the backward pass, a token.

    Checkpointing keeps one D a layer and one layer's worth while it is recomputed.
    """
    shape = config.get_text_config()
    layers, layer = shape.num_hidden_layers, layer_numbers(config)
    if recipe.train.activation_checkpointing:
        return size * (layers * shape.hidden_size + layer)
    return size * layers * layer


def layer_numbers(config: Any) -> float:
    """Numbers that a decoder layer makes of a token: its two norm inputs and outputs (4 D), q, k, v
    and the attention output (2 D + 2 D_kv), and gate, up and their product (3 F)."""
    shape = config.get_text_config()
    width = shape.hidden_size
    inner = vars(shape).get("intermediate_size") or 4 * width
    heads = shape.num_attention_heads
    shared = (vars(shape).get("num_key_value_heads") or heads) / heads
    return (6 + 2 * shared) * width + 3 * inner


def critic_bytes(config: Any, recipe: Recipe) -> int:
    """Bytes of what PPO fits its critic to: the states of a round's tokens in float32, and three
    systems of 2 D + 2 numbers in float64; 0 for other stages."""
    stage = vars(recipe.stage)
    if stage["kind"] != "ppo" or stage["critic_pull"] is None:
        return 0
    width, train = config.get_text_config().hidden_size, recipe.train
    prompts = train.per_device_train_batch_size * train.gradient_accumulation_steps
    tokens = prompts * stage["num_mini_batches"] * stage["max_completion_length"]
    return 4 * tokens * width + 3 * 8 * (2 * width + 2) ** 2


def layout(recipe: Recipe, origin: Any, dtype: str) -> Layout:
    """The layout of a recipe's batches, known without weights."""
    import torch

    from tunesmith.models import attention, load

    config = model.skeleton(origin, recipe.model).config
    padded = not (load.packable(config) and tuners.build(recipe.tuner).packable)
    kind = attention.choose(recipe.model.attention, platform.device(), getattr(torch, dtype))
    return Layout(padded, not padded and attention.shares_prompts(config, kind))


def largest_batch(recipe: Recipe, dataset: Any, laid: Layout) -> int:
    """Tokens of the largest forward pass: the longest rows together, or full bins, up to the limit
    on one pass (a row is never cut); each with the answers that are sampled to it."""
    size = recipe.train.per_device_train_batch_size
    longest = sorted(dataset.lengths.tolist(), reverse=True)[:size]
    packed = recipe.data.packing != "none" or recipe.data.streaming  # longer rows may come
    whole = size * recipe.data.max_length if packed else int(sum(longest))
    if laid.padded and not packed:
        whole = longest[0] * len(longest)
    rows = math.ceil(whole / max(float(dataset.lengths.mean()), 1.0)) if packed else size
    whole, limit = with_answers(recipe, whole, rows, laid), max_forward_tokens(recipe)
    if limit is None:
        return whole
    open_end = recipe.data.packing == "blocks" or recipe.data.streaming
    one = recipe.data.max_length if open_end else longest[0]
    return min(whole, max(limit, with_answers(recipe, one, 1, laid)))


def with_answers(recipe: Recipe, tokens: int, rows: int, laid: Layout) -> int:
    """Tokens of so many rows with the answers that a stage samples to them, at most: each has its
    own copy of the row where prompts can't be shared."""
    stage = vars(recipe.stage)
    count, longest = stage.get("num_generations", 1), stage.get("max_completion_length", 0)
    return (tokens if laid.shared else tokens * count) + rows * count * longest


def variants(
    recipe: Recipe, origin: Any, dtype: str, dataset: Any, stage: Stage | None = None
) -> list[dict[str, Any]]:
    """Cheaper settings, each with the memory it would take."""
    half = recipe.data.max_length // 2
    changes: dict[str, tuple[str, dict[str, Any]]] = {
        "train.activation_checkpointing=true": ("train", {"activation_checkpointing": True}),
        "train.per_device_train_batch_size=1": ("train", {"per_device_train_batch_size": 1}),
        f"data.max_length={half}": ("data", {"max_length": half}),
    }
    if quantising.possible(recipe, origin.source):
        changes["model.quantize=bnb4"] = ("model", {"quantize": Quantization("bnb4")})
    rows, laid = [], layout(recipe, origin, dtype)
    for text, (section, values) in changes.items():
        part = dataclasses.replace(vars(recipe)[section], **values)
        changed = dataclasses.replace(recipe, **{section: part})
        longest = min(largest_batch(changed, dataset, laid), _cap(changed, laid))
        total = memory(changed, origin, dtype, longest, stage).total
        rows.append({"change": text, "total_gb": round(total, 3)})
    return rows


def _cap(recipe: Recipe, laid: Layout) -> int:
    size = recipe.train.per_device_train_batch_size
    return with_answers(recipe, size * recipe.data.max_length, size, laid)


def check_fits(
    recipe: Recipe, origin: Any, dtype: str, dataset: Any, stage: Stage | None = None
) -> Memory:
    """The estimate, or an error naming what would make it fit.

    Raises:
        ResourceError: M301, the run needs more memory than there is.
    """
    longest = largest_batch(recipe, dataset, layout(recipe, origin, dtype))
    need = memory(recipe, origin, dtype, longest, stage)
    available = available_gb()
    if need.total > available:
        cheaper = [
            v for v in variants(recipe, origin, dtype, dataset, stage) if v["total_gb"] < need.total
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
