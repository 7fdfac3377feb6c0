"""What a recipe would do, before it does anything: steps, tokens, memory, time, disk."""

from __future__ import annotations

import dataclasses
import tempfile
from typing import Any

from tunesmith import platform
from tunesmith.compose import artefacts, data, train
from tunesmith.compose.display import Display
from tunesmith.compose.memory import available_gb, disk_gb, largest_batch, layout, memory, variants
from tunesmith.compose.samples_of import measured
from tunesmith.data import trained
from tunesmith.recipe.sections import EvalConfig, LogConfig, OutputConfig, Recipe

PROBE_STEPS = 4


def check(recipe: Recipe, *, display: Display | None = None) -> dict[str, Any]:
    """Finds the model, encodes the data and counts the steps; reads no weights, writes no run.

    Returns:
        rows, tokens, trained share, steps and epochs, and what was left out.

    Raises:
        TunesmithError: whatever `train` would raise before it reads weights.
    """
    display = display or Display()
    platform.prepare(recipe.train.threads)
    ready = train.prepare(recipe, display)
    train_set, eval_set = ready.train_set, ready.eval_set
    loader = data.train_loader(recipe, train_set, rank=0, world=1, padded=False)
    loader = ready.stage.arrange(loader)
    total = loader.total_steps(recipe.train.num_train_epochs, recipe.train.max_steps)
    tokens = int(train_set.lengths.sum())
    seen = measured(ready.stage)
    return {
        "model": ready.origin.describe(),
        "data": artefacts.describe_data(train_set, eval_set, seen),
        "rows": len(train_set),
        "tokens": tokens,
        "trained_share": trained.tokens(train_set, seen).trained / max(tokens, 1),
        "steps": total,
        "epochs": loader.epoch_of(total),
        "left_out": train_set.report["skipped"],
        "template": ready.stage.template.name,
    }


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
    ready = train.prepare(recipe, display)
    recipe, origin, dataset = ready.recipe, ready.origin, ready.train_set
    loader = data.train_loader(recipe, dataset, rank=0, world=1, padded=False)
    loader = ready.stage.arrange(loader)
    steps = loader.total_steps(recipe.train.num_train_epochs, recipe.train.max_steps)
    dtype = platform.choose_dtype(recipe.train.dtype)
    laid = layout(recipe, origin, dtype)
    need = memory(recipe, origin, dtype, largest_batch(recipe, dataset, laid), ready.stage)
    available = available_gb()
    tokens = int(dataset.lengths.sum())
    return {
        "memory_gb": {k: round(v, 3) for k, v in dataclasses.asdict(need).items()},
        "total_gb": round(need.total, 3),
        "available_gb": round(available, 3),
        "fits": need.total <= available,
        "device": platform.device(),
        "dtype": dtype,
        "steps": steps,
        "tokens_per_epoch": tokens,
        "disk_gb": round(disk_gb(recipe, need), 6),
        "variants": variants(recipe, origin, dtype, dataset, ready.stage),
        "devices_gb": {size: need.total <= size for size in (8, 12, 16, 24, 40, 80)},
        **(_probe(recipe, steps) if probe else {"seconds": None, "tokens_per_second": None}),
    }


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
