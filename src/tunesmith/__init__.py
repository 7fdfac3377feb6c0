"""tunesmith: one tool for the whole life of a large language model.

    import tunesmith
    recipe = tunesmith.Recipe.load("recipe.yaml", ["optim.learning_rate=1e-4"])
    run = tunesmith.train(recipe)
    model = tunesmith.load(run.path)

Everything is imported when first used, so `import tunesmith` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "Recipe": ("tunesmith.recipe", "Recipe"),
    "train": ("tunesmith.compose", "train"),
    "resume": ("tunesmith.compose", "resume"),
    "evaluate": ("tunesmith.compose", "evaluate"),
    "load": ("tunesmith.compose", "load"),
    "merge": ("tunesmith.exporting.merge", "merge"),
    "TunesmithError": ("tunesmith.errors", "TunesmithError"),
}
__all__ = ["Recipe", "TunesmithError", "evaluate", "load", "merge", "resume", "train"]

if TYPE_CHECKING:
    from tunesmith.compose import evaluate, load, resume, train
    from tunesmith.errors import TunesmithError
    from tunesmith.exporting.merge import merge
    from tunesmith.recipe import Recipe


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'tunesmith' has no attribute '{name}'")
    module, attribute = _PUBLIC[name]
    return getattr(importlib.import_module(module), attribute)
