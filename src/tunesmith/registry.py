"""The file name is the name: `load("stages", "sft")` finds `stages/sft.py` and its `SftStage`.

No table to edit and no decorator to forget. Third parties add names by entry points in the group
`tunesmith.<kind>`. This is the only dynamic import of the house; it may be called by compose, by
recipe (for Config classes) and by a folder's own `base.py` (a house test sees to it).
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any

from tunesmith.errors import ConfigError

# kind -> (package below tunesmith, suffix of the class; "" means the module itself is the part)
KINDS: dict[str, tuple[str, str]] = {
    "stages": ("stages", "Stage"),
    "tuners": ("tuners", "Tuner"),
    "parallel": ("parallel", "Parallel"),
    "generation": ("generation", "Generator"),
    "formats": ("data.formats", ""),
    "exporting": ("exporting", ""),
    "rewards": ("rewards", ""),
}


@lru_cache
def names(kind: str) -> tuple[str, ...]:
    """All names of a kind, ours and third parties', sorted."""
    package = importlib.import_module(f"tunesmith.{KINDS[kind][0]}")
    ours = {m.name for m in pkgutil.iter_modules(package.__path__) if _is_public(m.name)}
    return tuple(sorted(ours | {e.name for e in entry_points(group=f"tunesmith.{kind}")}))


def load(kind: str, name: str) -> Any:
    """The part called `name`: a class, or the module for kinds made of functions.

    Raises:
        ConfigError: C110, no such name; the message lists the nearest and all.
    """
    if name not in names(kind):
        raise unknown(kind, name)
    for entry in entry_points(group=f"tunesmith.{kind}"):
        if entry.name == name:
            return entry.load()
    package, suffix = KINDS[kind]
    module = importlib.import_module(f"tunesmith.{package}.{name}")
    return getattr(module, class_name(name, suffix)) if suffix else module


def class_name(name: str, suffix: str) -> str:
    """`prefix_tuning`, `Tuner` → `PrefixTuningTuner`."""
    return "".join(word.capitalize() for word in name.split("_")) + suffix


def did_you_mean(name: str, known: tuple[str, ...] | list[str]) -> str:
    """`did you mean …?` if something is near, else an empty string."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean `{near[0]}`?" if near else ""


def unknown(kind: str, name: str) -> ConfigError:
    """The error for a name that is not there."""
    known = names(kind)
    fix = f"{did_you_mean(name, known)}  known: {', '.join(known)}".strip()
    return ConfigError("C110", f"no {kind} called `{name}`", fix=fix)


def _is_public(name: str) -> bool:
    return not name.startswith("_") and not name.endswith("_impl") and name != "base"
