"""Checks of a recipe that need nothing but the recipe: ranges, and keys that exclude each other."""

from __future__ import annotations

from typing import Any, NamedTuple

from tunesmith.errors import ConfigError
from tunesmith.recipe.sections import Holdout, Recipe, Source
from tunesmith.recipe.tree import Node, Place


class Range(NamedTuple):
    """low ≤ value ≤ high; an open end is excluded."""

    low: float
    high: float = float("inf")
    low_open: bool = False
    high_open: bool = False

    def holds(self, value: float) -> bool:
        above = value > self.low if self.low_open else value >= self.low
        return above and (value < self.high if self.high_open else value <= self.high)

    def __str__(self) -> str:
        parts = [f"{'above' if self.low_open else 'at least'} {self.low:g}"]
        if self.high != float("inf"):
            parts.append(f"{'below' if self.high_open else 'at most'} {self.high:g}")
        return " and ".join(parts)


_POSITIVE = Range(0, low_open=True)
_SHARE = Range(0, 1, high_open=True)

RANGES: dict[str, Range] = {
    "data.max_length": Range(2),
    "data.max_prompt_length": Range(1),
    "data.max_answer_length": Range(2),
    "data.num_proc": Range(1),
    "data.buffer_size": Range(1),
    "train.num_train_epochs": _POSITIVE,
    "train.max_steps": Range(1),
    "train.per_device_train_batch_size": Range(1),
    "train.gradient_accumulation_steps": Range(1),
    "train.max_forward_tokens": Range(1),
    "train.seed": Range(0, 2**63 - 1),
    "train.save_steps": Range(1),
    "train.save_total_limit": Range(1),
    "train.logging_steps": Range(1),
    "train.threads": Range(1, 4096),
    "optim.learning_rate": Range(0),
    "optim.warmup_steps": Range(0),
    "optim.decay_steps": Range(0),
    "optim.min_learning_rate": Range(0),
    "optim.weight_decay": Range(0),
    "optim.adam_beta1": _SHARE,
    "optim.adam_beta2": _SHARE,
    "optim.adam_epsilon": _POSITIVE,
    "optim.max_grad_norm": Range(0),
    "eval.steps": Range(1),
    "eval.per_device_eval_batch_size": Range(1),
    "eval.generate": Range(0),
}


def ranges(recipe: Recipe, root: Node) -> None:
    """Refuses values out of range and keys that exclude each other.

    Args:
        recipe: The recipe to check.
        root: The nodes it was built from, for places.

    Raises:
        ConfigError: C105.
    """
    for path, allowed in RANGES.items():
        section, key = path.split(".")
        _in_range(path, vars(vars(recipe)[section])[key], allowed, root)
    for path, source in _sources(recipe):
        _in_range(f"{path}.weight", source.weight, Range(0), root)
        _in_range(f"{path}.max_samples", source.max_samples, Range(1), root)
    if isinstance(recipe.data.eval, Holdout):
        _holdout(recipe.data.eval, root)
    if recipe.model.path is not None and recipe.model.config is not None:
        raise _refuse("model.config", "model.path and model.config exclude each other", root)
    if recipe.optim.min_learning_rate > recipe.optim.learning_rate:
        what = "optim.min_learning_rate is larger than optim.learning_rate"
        raise _refuse("optim.min_learning_rate", what, root)
    name = recipe.output.name
    if name is not None and (not name.strip() or set(name) & set("/\\@:\0\n") or name[0] in ".-"):
        raise _refuse("output.name", f"`{name}` can't be the name of a run directory", root)


def complete(recipe: Recipe) -> None:
    """Refuses a recipe that can't be trained because something is not said at all.

    Raises:
        ConfigError: C114.
    """
    model = recipe.model
    missing = ""
    if model.path is None and model.config is None:
        missing, fix = "model", "model: builtin:tiny, a directory, a run or a hub id"
    elif model.config is not None and model.tokenizer is None:
        missing, fix = "model.tokenizer", "a model from scratch needs model.tokenizer: DIR"
    elif not recipe.data.train:
        missing, fix = "data.train", "data: {train: FILE}"
    if missing:
        raise ConfigError("C114", f"the recipe does not say `{missing}`", fix=fix)


def _sources(recipe: Recipe) -> list[tuple[str, Source]]:
    found = [(f"data.train.{i}", source) for i, source in enumerate(recipe.data.train)]
    if isinstance(recipe.data.eval, tuple):
        found += [(f"data.eval.{i}", source) for i, source in enumerate(recipe.data.eval)]
    return found


def _holdout(holdout: Holdout, root: Node) -> None:
    given = [x for x in (holdout.fraction, holdout.count, holdout.split) if x is not None]
    if len(given) != 1:
        what = "data.eval wants a fraction or a count or a split, and one of them"
        raise _refuse("data.eval", what, root)
    _in_range("data.eval.fraction", holdout.fraction, Range(0, 1, True, True), root)
    _in_range("data.eval.count", holdout.count, Range(1), root)


def _in_range(path: str, value: Any, allowed: Range, root: Node) -> None:
    if isinstance(value, int | float) and not allowed.holds(value):
        raise _refuse(path, f"`{path}` must be {allowed}, found {value}", root)


def _refuse(path: str, what: str, root: Node) -> ConfigError:
    return ConfigError("C105", what, where=str(_place(path, root)), fix=_fix(path))


def _fix(path: str) -> str:
    allowed = RANGES.get(path)
    return f"give a value {allowed}" if allowed else f"change `{path}`"


def _place(path: str, root: Node) -> Place:
    """The place of the node at `path`, or of the nearest thing around it."""
    node, place = root, root.place
    for key in path.split("."):
        if node.is_map and key in node.value:
            place, node = node.key_place(key), node.value[key]
        elif node.is_list and key.isdigit() and int(key) < len(node.value):
            node = node.value[int(key)]
            place = node.place
        else:
            break
    return place
