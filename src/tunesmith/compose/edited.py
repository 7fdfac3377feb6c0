"""A recipe that was edited after its run began is refused on resume, with the keys that differ."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Any

from tunesmith import recipe as recipes
from tunesmith.compose import data
from tunesmith.errors import ConfigError
from tunesmith.recipe.sections import Recipe
from tunesmith.rundir import RunDir

LENGTHS = "Its learning rate depends on its length; under `constant`, lengths may change."
_AFTER = ("command line", "environment")


def note(directory: RunDir, recipe: Recipe) -> None:
    """Notes what the run's `recipe.yaml` is now, and which keys something else has set."""
    found = recipes.origins(recipe)
    overridden = [key for key, origin in found.items() if origin.startswith(_AFTER)]
    directory.update(recipe_sha256=_hash(directory), overridden=overridden)


def check(directory: RunDir, before: Recipe, say: Any) -> None:
    """Looks whether `recipe.yaml` in the run directory is what it was.

    Args:
        directory: The run.
        before: The recipe it began with.
        say: Is told what names in the edited recipe stand for.

    Raises:
        ConfigError: C190, it says something else now; others, it can't be read any more.
    """
    info, now = directory.info(), _hash(directory)
    if now is None or info.get("recipe_sha256", now) == now:
        return
    path = directory.path / "recipe.yaml"
    given = data.pinned(data.named(recipes.load(str(path), environ={}), say))
    refuse(before, given, str(path), but=info["overridden"])


def refuse(before: Recipe, after: Recipe, where: str, *, but: Collection[str] = ()) -> None:
    """Refuses what may not change when a run goes on.

    Raises:
        ConfigError: C190, with the keys, except those in `but`.
    """
    found = recipes.differences(recipes.to_dict(before), recipes.to_dict(after))
    changed = [key for key in found if key not in but]
    if changed:
        raise ConfigError(
            "C190",
            f"a resumed run can't change {', '.join(changed)}",
            where=where,
            why=LENGTHS if set(changed) & set(recipes.LENGTH) else "",
            fix="start a new run (model.path=run:… continues from its weights)",
        )


def _hash(directory: RunDir) -> str | None:
    path = directory.path / "recipe.yaml"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
