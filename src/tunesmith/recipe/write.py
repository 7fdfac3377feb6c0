"""A recipe as data: dict, YAML that loads back equal, digest, and what differs between two."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from tunesmith.recipe.sections import Recipe
from tunesmith.recipe.yaml12 import scalar

# HOUSE decision 7: what may change when a run is resumed.
FREE_ON_RESUME = (
    "train.save_steps",
    "train.save_total_limit",
    "train.logging_steps",
    "train.logging_first_step",
    "eval.steps",
    "log",
    "output",
)
LENGTH = ("train.num_train_epochs", "train.max_steps")

_PLAIN = re.compile(r"[A-Za-z_./][A-Za-z0-9_./@+:-]*( [A-Za-z0-9_./@+-]+)*")
_YAML11_WORDS = {"y", "n", "yes", "no", "on", "off"}  # quoted for readers of YAML 1.1
# What PyYAML refuses in a stream, and line breaks that a quoted scalar would fold.
_UNPRINTABLE = re.compile(
    "[^\x20-\x7e\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]|[\u2028\u2029]"
)


def to_dict(recipe: Recipe, *, defaults: bool = True) -> dict[str, Any]:
    """Plain data of a recipe: dicts, lists, scalars.

    Args:
        recipe: The recipe.
        defaults: False: leave out fields that have their default value.
    """
    return _plain(recipe, defaults)


def _plain(value: Any, defaults: bool) -> Any:
    if dataclasses.is_dataclass(value):
        fields = [(f, vars(value)[f.name]) for f in dataclasses.fields(value)]
        kept = [(f.name, v) for f, v in fields if defaults or not _is_default(f, v)]
        return {name: _plain(v, defaults) for name, v in kept}
    if isinstance(value, Mapping):
        return {str(key): _plain(child, defaults) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(child, defaults) for child in value]
    return value


def _is_default(field: dataclasses.Field[Any], value: Any) -> bool:
    if field.name == "kind":
        return False
    if field.default_factory is not dataclasses.MISSING:
        return value == field.default_factory()
    return value == field.default


def flatten(data: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted path → leaf. Lists of scalars and empty containers are leaves."""
    if isinstance(data, Mapping) and data:
        pairs: Iterable[tuple[str, Any]] = data.items()
    elif isinstance(data, list) and any(isinstance(child, Mapping) for child in data):
        pairs = ((str(i), child) for i, child in enumerate(data))
    else:
        return {prefix: data}
    found: dict[str, Any] = {}
    for key, child in pairs:
        found |= flatten(child, f"{prefix}.{key}" if prefix else key)
    return found


def digest(recipe: Recipe, exclude: Iterable[str] = ()) -> str:
    """sha256 (hex) of the recipe's canonical JSON.

    Args:
        recipe: The recipe.
        exclude: Dotted paths left out, with everything below them.
    """
    skipped = tuple(exclude)
    kept = {k: _canonical(v) for k, v in flatten(to_dict(recipe)).items() if not _under(k, skipped)}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(value: Any) -> Any:
    """Equal numbers alike: a default of 16 for a float field is the 16.0 that a file gives."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return [_canonical(item) for item in value] if isinstance(value, list) else value


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Dotted keys that differ between two recipes and may not change when a run is resumed.

    The length of a run may change only where the learning rate does not depend on it.
    """
    before, after = flatten(old), flatten(new)
    free = FREE_ON_RESUME
    if _is_open_ended(before) and _is_open_ended(after):
        free = (*free, *LENGTH)
    absent = object()
    return [
        key
        for key in sorted(before.keys() | after.keys())
        if before.get(key, absent) != after.get(key, absent) and not _under(key, free)
    ]


def _is_open_ended(flat: Mapping[str, Any]) -> bool:
    constant = flat.get("optim.lr_scheduler_type") == "constant"
    warmup = flat.get("optim.warmup_steps") or 0.0
    return constant and (warmup == 0 or warmup >= 1)  # below 1 it is a share of the length


def _under(key: str, paths: Iterable[str]) -> bool:
    return any(key == path or key.startswith(path + ".") for path in paths)


# ---------------------------------------------------------------- YAML


def dump(recipe: Recipe, origins: Mapping[str, str] | None = None) -> str:
    """YAML of every value; loads back equal.

    Args:
        recipe: The recipe.
        origins: Dotted path → where the value came from, written behind it as a comment.
    """
    lines: list[str] = []
    for section, value in to_dict(recipe).items():
        lines += _lines(section, value, section, "", origins or {})
    return "\n".join(lines) + "\n"


def _lines(key: str, value: Any, path: str, indent: str, origins: Mapping[str, str]) -> list[str]:
    head = f"{indent}{_text(key)}:"
    if isinstance(value, dict) and value:
        below = [_lines(k, v, f"{path}.{k}", indent + "  ", origins) for k, v in value.items()]
        return [head, *(line for block in below for line in block)]
    if isinstance(value, list) and any(isinstance(item, dict) and item for item in value):
        lines = [head]
        for i, item in enumerate(value):
            lines += _item(item, f"{path}.{i}", indent + "  ", origins)
        return lines
    line = f"{head} {_flow(value)}"
    origin = origins.get(path)
    return [f"{line:<44}  # {origin}" if origin else line]


def _item(item: Any, path: str, indent: str, origins: Mapping[str, str]) -> list[str]:
    if not (isinstance(item, dict) and item):
        return [f"{indent}- {_flow(item)}"]
    blocks = [_lines(k, v, f"{path}.{k}", indent + "  ", origins) for k, v in item.items()]
    lines = [line for block in blocks for line in block]
    return [f"{indent}- {lines[0][len(indent) + 2 :]}", *lines[1:]]


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_text(k)}: {_flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return _float(value)
    return str(value) if isinstance(value, int) else _text(str(value))


def _float(value: float) -> str:
    """Always with a point, so that readers of YAML 1.1 see a number too."""
    text = repr(value)
    if "e" in text and "." not in text:
        mantissa, _, exponent = text.partition("e")
        return f"{mantissa}.0e{exponent}"
    return {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}.get(text, text)


def _text(text: str) -> str:
    plain = _PLAIN.fullmatch(text) and not text.endswith(":")
    if plain and isinstance(scalar(text), str) and text.lower() not in _YAML11_WORDS:
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda found: f"\\U{ord(found[0]):08X}", quoted)
