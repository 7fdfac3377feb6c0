"""Where weights of few bits are asked for: what is refused before they load, what they take."""

from __future__ import annotations

import dataclasses
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from tunesmith.compose.source import Source
from tunesmith.errors import ConfigError
from tunesmith.quant import bnb
from tunesmith.recipe.sections import Quantization, Recipe
from tunesmith.tuners import base as tuners

Quantize = Literal["none", "bnb4", "bnb8"]
BESIDE = ("lora", "prompt", "prefix")
"""Tuners that leave the model's own weights as they are."""


def check(recipe: Recipe, source: Source | None) -> None:
    """Refuses a run that can't train over quantised weights; reads none.

    Args:
        recipe: What is to be done.
        source: Its model; None: from scratch.

    Raises:
        ConfigError: E230.
        MissingExtra: E401, bitsandbytes is not installed.
    """
    if recipe.model.quantize is None:
        return
    if recipe.tuner.kind not in BESIDE:
        raise ConfigError(
            "E230",
            f"tuner {recipe.tuner.kind} would train weights that are quantised",
            where="tuner",
            why="Four or eight bits are too coarse to take an update: they stay frozen.",
            fix="tuner=lora trains beside them, or leave out model.quantize",
        )
    if vars(recipe.tuner).get("use_dora"):
        raise ConfigError(
            "E230",
            "DoRA needs the weights themselves, and these are quantised",
            where="tuner.use_dora",
            fix="tuner.use_dora=false, or leave out model.quantize",
        )
    if source is not None and (source.adapters or source.checkpoint is not None):
        raise _merge_first(source.spec)
    if source is None:
        from tunesmith.models import quantised

        quantised.refuse_fresh(recipe.model)
    bnb.require()


def possible(recipe: Recipe, source: Source | None) -> bool:
    """Whether `model.quantize` could be given to a run that has none."""
    if recipe.model.quantize is not None or find_spec("bitsandbytes") is None:
        return False
    wanted = dataclasses.replace(recipe.model, quantize=Quantization())
    try:
        check(dataclasses.replace(recipe, model=wanted), source)
    except ConfigError:
        return False
    return True


def over(found: Source, merges: bool) -> None:
    """Refuses what can't be laid over quantised weights.

    Args:
        found: Weights, and what is to be laid over them.
        merges: Whether its checkpoint holds an adapter rather than weights.

    Raises:
        ConfigError: E230.
    """
    many = len(found.adapters) + (found.checkpoint is not None) > 1
    if many or (found.checkpoint is not None and not (found.base and merges)):
        raise _merge_first(found.spec)


def _merge_first(spec: str) -> ConfigError:
    return ConfigError(
        "E230",
        f"`{spec}` is not the weights of one model, which alone can be quantised as they load",
        where="model.quantize",
        why="What is laid over weights changes them; of few bits only one adapter stands beside.",
        fix=f"tunesmith merge {spec} -o DIR, then name DIR",
    )


def chosen(asked: Quantize | None, found: Source, recipe: Recipe | None) -> Quantization | None:
    """How a model that is to answer is quantised: as asked for, else as it was trained.

    Args:
        asked: `--quantize`; None: not given.
        found: The model.
        recipe: Of the run, if the model is a checkpoint of it.
    """
    if asked is not None:
        return None if asked == "none" else Quantization(asked)
    if recipe is not None:
        return recipe.model.quantize
    fields = found.card().get("quantize")
    return Quantization(**fields) if fields else None


def whole(tuner: Any) -> tuple[str, ...]:
    """Modules that a tuner trains as a whole: they stay as they are."""
    config = vars(tuner).get("config") if tuner is not None else None
    return tuple(vars(config).get("modules_to_save", ())) if config is not None else ()


def saved_bytes(hf: Any, recipe: Recipe, held: int) -> float:
    """Bytes that quantising saves.

    Args:
        hf: The model without memory, before a tuner changed it.
        recipe: Says how it is quantised, and which modules are not.
        held: Bytes of a weight that is not.
    """
    wanted = recipe.model.quantize
    if wanted is None:
        return 0.0
    from tunesmith.models.lowrank import weight_of
    from tunesmith.tuners import lora_impl

    kept = lora_impl.module_names(hf, whole(tuners.build(recipe.tuner)), "tuner.modules_to_save")
    scale = 1 / 64 + 4 / (64 * 256) if wanted.double_quant else 4 / 64
    saved = 0.0
    for name in lora_impl.linear_names(hf):
        if not any(f"{name}.".startswith(f"{other}.") for other in kept):
            weight_OI = weight_of(hf.get_submodule(name))
            count = weight_OI.numel()
            few = count * (0.5 + scale) if wanted.bits == 4 else count + 4 * len(weight_OI)
            saved += count * held - few
    return saved


def noted(quantize: Quantization | None) -> dict[str, Any] | None:
    """What a run's final/ remembers of it."""
    return None if quantize is None else dict(vars(quantize))


def refuse_file(spec: str | Path, asked: Quantize | None) -> None:
    """Raises:
    ConfigError: E230, `--quantize` for a file that is quantised as it is.
    """
    if asked is not None:
        raise ConfigError(
            "E230",
            f"{spec} holds its weights as they will be computed",
            where="--quantize",
            fix="leave out --quantize",
        )
