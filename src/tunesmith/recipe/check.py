"""Checks of a recipe that need nothing but the recipe: ranges, and keys that exclude each other."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from tunesmith.errors import ConfigError
from tunesmith.recipe.problems import Problems
from tunesmith.recipe.sections import Holdout, Recipe
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
_NUMBER = re.compile(r"\.\d+(?=\.|$)")

RANGES: dict[str, Range] = {
    "data.max_length": Range(2),
    "data.max_prompt_length": Range(1),
    "data.max_answer_length": Range(2),
    "data.num_proc": Range(1),
    "data.train.weight": Range(0),
    "data.train.max_samples": Range(1),
    "data.eval.weight": Range(0),
    "data.eval.max_samples": Range(1),
    "data.eval.fraction": Range(0, 1, True, True),
    "data.eval.count": Range(1),
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


def in_range(path: str, value: Any, place: Place) -> None:
    """Refuses a number that its key does not allow.

    Args:
        path: Dotted path; the numbers of lists in it don't matter.
        value: What was given there; only numbers have ranges.
        place: Where it stands.

    Raises:
        ConfigError: C105.
    """
    allowed = RANGES.get(_NUMBER.sub("", path))
    if allowed and isinstance(value, int | float) and not allowed.holds(value):
        what = f"`{path}` must be {allowed}, found {value}"
        raise ConfigError("C105", what, where=str(place), fix=f"give a value {allowed}")


def together(sections: Mapping[str, Any], root: Node) -> None:
    """Refuses keys that exclude each other.

    Args:
        sections: The sections that were read without an error, by name.
        root: The nodes they were built from, for places.

    Raises:
        ConfigError: C105; ConfigErrors if there are several.
    """
    problems = Problems()
    if "data" in sections and isinstance(sections["data"].eval, Holdout):
        holdout = sections["data"].eval
        given = [x for x in (holdout.fraction, holdout.count, holdout.split) if x is not None]
        if len(given) != 1:
            what = "data.eval wants a fraction or a count or a split, and one of them"
            problems.add(_refuse("data.eval", what, root))
    model, optim, output = (sections.get(name) for name in ("model", "optim", "output"))
    if model is not None and model.path is not None and model.config is not None:
        what = "model.path and model.config exclude each other"
        problems.add(_refuse("model.config", what, root))
    if optim is not None and optim.min_learning_rate > optim.learning_rate:
        what = "optim.min_learning_rate is larger than optim.learning_rate"
        problems.add(_refuse("optim.min_learning_rate", what, root))
    name = output.name if output is not None else None
    if name is not None and (not name.strip() or set(name) & set("/\\@:\0\n") or name[0] in ".-"):
        what = f"`{name}` can't be the name of a run directory"
        problems.add(_refuse("output.name", what, root))
    problems.raise_any()


def complete(recipe: Recipe) -> None:
    """Refuses a recipe that can't be trained because something is not said at all.

    Raises:
        ConfigError: C114; ConfigErrors if there are several.
    """
    said(vars(recipe))


def said(sections: Mapping[str, Any]) -> None:
    """As `complete`, of the sections that were read without an error.

    Raises:
        ConfigError: C114; ConfigErrors if there are several.
    """
    problems = Problems()
    model, data = sections.get("model"), sections.get("data")
    if model is not None and model.path is None and model.config is None:
        problems.add(_missing("model", "model: builtin:tiny, a directory, a run or a hub id"))
    elif model is not None and model.config is not None and model.tokenizer is None:
        problems.add(_missing("model.tokenizer", "a model from scratch needs model.tokenizer: DIR"))
    if data is not None and not data.train:
        problems.add(_missing("data.train", "data: {train: FILE}"))
    problems.raise_any()


def _missing(key: str, fix: str) -> ConfigError:
    return ConfigError("C114", f"the recipe does not say `{key}`", fix=fix)


def _refuse(path: str, what: str, root: Node) -> ConfigError:
    return ConfigError("C105", what, where=str(place(path, root)), fix=f"change `{path}`")


def place(path: str, root: Node) -> Place:
    """The place of the node at `path`, or of the nearest thing around it."""
    node, found = root, root.place
    for key in path.split("."):
        if node.is_map and key in node.value:
            found, node = node.key_place(key), node.value[key]
        elif node.is_list and key.isdigit() and int(key) < len(node.value):
            node = node.value[int(key)]
            found = node.place
        else:
            break
    return found
