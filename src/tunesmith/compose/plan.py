"""What a recipe would do, before it does anything: steps, tokens, memory, time, disk."""

from __future__ import annotations

from typing import Any

from tunesmith import platform
from tunesmith.compose import artefacts, data, model, train
from tunesmith.compose.display import Display
from tunesmith.recipe.sections import Recipe


def check(recipe: Recipe, *, display: Display | None = None) -> dict[str, Any]:
    """Finds the model, encodes the data and counts the steps; reads no weights, writes no run.

    Returns:
        rows, tokens, trained share, steps and epochs, and what was left out.

    Raises:
        TunesmithError: whatever `train` would raise before it reads weights.
    """
    display = display or Display()
    platform.prepare(recipe.train.threads)
    origin = model.origin(recipe)
    data.check_sources(recipe)
    recipe = train.fit_context(recipe, origin, display)
    factory = data.encoder_factory(recipe, origin.tokenizer_dir)
    stage = factory.build()
    stage.check(recipe)
    train_set, eval_set = data.datasets(recipe, factory, stage, display.line)
    loader = data.train_loader(recipe, train_set, rank=0, world=1, padded=False)
    total = loader.total_steps(recipe.train.num_train_epochs, recipe.train.max_steps)
    tokens = int(train_set.lengths.sum())
    return {
        "model": origin.describe(),
        "data": artefacts.describe_data(train_set, eval_set),
        "rows": len(train_set),
        "tokens": tokens,
        "trained_share": float(train_set.trained.sum()) / max(tokens, 1),
        "steps": total,
        "epochs": loader.epoch_of(total),
        "left_out": train_set.report["skipped"],
        "template": stage.template.name,
    }
