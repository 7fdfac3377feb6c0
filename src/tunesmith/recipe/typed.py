"""Nodes become frozen dataclasses: each value by the type its field declares, nothing by guess."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING
from functools import lru_cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from tunesmith.errors import ConfigError, TunesmithError
from tunesmith.recipe import check, foreign
from tunesmith.recipe.problems import Problems
from tunesmith.recipe.tree import Node, Place
from tunesmith.recipe.yaml12 import scalar
from tunesmith.registry import did_you_mean

_TRUE = {"true", "yes", "on", "1"}
_FALSE = {"false", "no", "off", "0"}
_NULL = {"", "~", "null"}


class Mismatch(Exception):
    """A value is not of the wanted type; caught by `field_value`, which knows place and path."""

    def __init__(self, hint: str = ""):
        super().__init__(hint)
        self.hint = hint


@lru_cache
def hints(cls: type) -> dict[str, Any]:
    """The resolved field types of a config class."""
    found = get_type_hints(cls)
    return {f.name: found[f.name] for f in dataclasses.fields(cls)}


def build(cls: type, node: Node, path: str, elsewhere: Callable[[str], str] | None = None) -> Any:
    """An instance of the config class `cls` from a dict of nodes.

    Args:
        cls: A frozen dataclass.
        node: A dict node, or the scalar that is shorthand for its `kind` or `path`.
        path: Dotted path of this section, for messages; empty for the root.
        elsewhere: Says for an unknown key where it belongs, e.g. `optim.learning_rate`, or "".

    Raises:
        ConfigError: C102 unknown key, C103 foreign name, C104 wrong type, C105 refused value,
            C114 missing key; ConfigErrors if there are several.
    """
    known = hints(cls)
    if not node.is_map:
        node = _expand(known, node, path)
    problems, values = Problems(), {}
    for key, child in node.value.items():
        if key not in known:
            problems.add(unknown_key(key, node.key_place(key), path, tuple(known), elsewhere))
            continue
        below = f"{path}.{key}" if path else key
        with problems.gathering():
            values[key] = field_value(known[key], child, below)
            check.in_range(below, values[key], node.key_place(key))
    for field in dataclasses.fields(cls):
        missing = field.default is MISSING and field.default_factory is MISSING
        if missing and field.name not in node.value:
            what = f"`{path}` needs the key `{field.name}`"
            fix = f"add `{field.name}: …`  keys: {', '.join(known)}"
            problems.add(ConfigError("C114", what, where=str(node.place), fix=fix))
    problems.raise_any()
    return _construct(cls, values, node, path)


def _construct(cls: type, values: dict[str, Any], node: Node, path: str) -> Any:
    """Calls the class; what its own checks refuse gets a place."""
    try:
        return cls(**values)
    except TunesmithError as error:
        if not error.where:
            error.where = str(node.place)
        raise
    except (ValueError, TypeError) as error:
        raise ConfigError("C105", f"`{path}`: {error}", where=str(node.place)) from None


def unknown_key(
    key: str,
    place: Place,
    path: str,
    known: Sequence[str],
    elsewhere: Callable[[str], str] | None = None,
) -> ConfigError:
    """The error for a key that is not there: nearest, today's, where it belongs, or all."""
    section = f"section `{path}`" if path else "the recipe"
    instead = foreign.today(key)
    if instead:
        fix = instead if instead.startswith("nothing") else f"write {instead}"
        return ConfigError(
            "C103",
            f"`{key}` in {section} is a name of another tool or an older version",
            where=str(place),
            fix=fix,
        )
    belongs = elsewhere(key) if elsewhere else ""
    nearest = did_you_mean(key, list(known))
    if belongs and (not nearest or key == belongs.rpartition(".")[2]):
        nearest = f"write it as `{belongs}`"
    listed = f"keys here: {', '.join(known)}"
    if nearest and path and "." not in path:  # the list of a whole section would bury the name
        listed = f"all keys: tunesmith config schema {path}"
    return ConfigError(
        "C102",
        f"unknown key `{key}` in {section}",
        where=str(place),
        fix=f"{nearest}  {listed}".strip(),
    )


def field_value(hint: Any, node: Node, path: str) -> Any:
    """The value of one field.

    Raises:
        ConfigError: C104, with what is allowed.
    """
    try:
        return _value(hint, node, path)
    except Mismatch as error:
        raise ConfigError(
            "C104",
            f"`{path}` wants {describe(hint)}, found {_shown(node)}",
            where=str(node.place),
            fix=error.hint or f"give {describe(hint)}",
        ) from None


def describe(hint: Any) -> str:
    """A type in words: `a whole number, "epoch" or "no"`."""
    words = list(dict.fromkeys(_words(hint)))
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def _words(hint: Any) -> list[str]:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    names |= {type(None): "null", Any: "anything"}
    origin = get_origin(hint)
    if hint in names:
        return [names[hint]]
    if origin is Literal:
        return [f"`{choice}`" for choice in get_args(hint)]
    if origin in (Union, types.UnionType):
        return [word for member in get_args(hint) for word in _words(member)]
    if origin in (tuple, list, Sequence) or _is_sequence(hint):
        return [f"a list of {describe(get_args(hint)[0])}"]
    if dataclasses.is_dataclass(hint):
        return ["{" + ", ".join(f"{key}: …" for key in list(hints(hint))[:4]) + "}"]
    return ["a mapping"]


def _shown(node: Node) -> str:
    if node.is_map:
        return "a mapping"
    if node.is_list:
        return "a list"
    return "nothing" if node.value in (None, "") else f"`{str(node.value)[:60]}`"


def _value(hint: Any, node: Node, path: str) -> Any:
    origin = get_origin(hint)
    if hint is Any:
        return free(node)
    if origin in (Union, types.UnionType):
        return _union(get_args(hint), node, path)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return build(hint, node, path)
    if _is_sequence(hint):
        return _sequence(hint, node, path)
    if origin in (Mapping, dict) or hint in (Mapping, dict):
        return _mapping(hint, node, path)
    return _scalar(hint, node)


def _is_sequence(hint: Any) -> bool:
    return get_origin(hint) in (tuple, list, Sequence)


def _sequence(hint: Any, node: Node, path: str) -> Any:
    """A list; one item alone stands for a list of it."""
    item = get_args(hint)[0]
    if node.is_scalar and (_is_null(node) or node.value == ""):
        raise Mismatch("for an empty list write []")
    children = node.value if node.is_list else [node]
    named = [(f"{path}.{i}", child) for i, child in enumerate(children)]
    values = [value for _, value in _each(item, named)]
    return values if get_origin(hint) is list else tuple(values)


def _mapping(hint: Any, node: Node, path: str) -> dict[str, Any]:
    if not node.is_map:
        raise Mismatch()
    item = get_args(hint)[1] if get_args(hint) else Any
    named = [(f"{path}.{key}", child) for key, child in node.value.items()]
    return {below.removeprefix(f"{path}."): value for below, value in _each(item, named)}


def _each(item: Any, named: Sequence[tuple[str, Node]]) -> list[tuple[str, Any]]:
    """(path, value) of each node; raises all that is wrong with them together."""
    problems, values = Problems(), []
    for below, child in named:
        with problems.gathering():
            values.append((below, field_value(item, child, below)))
    problems.raise_any()
    return values


def _union(members: tuple[Any, ...], node: Node, path: str) -> Any:
    nested = [m for m in members if not _takes_scalars(m)]
    hint = ""
    if node.is_scalar:
        simple = [m for m in members if m not in nested]
        simple.sort(key=lambda member: member is str)  # text takes anything, so it comes last
        for member in simple:
            try:
                return _value(member, node, path)
            except Mismatch as error:
                hint = hint or error.hint
    elif node.raw is not None and not nested and str in members:
        return node.raw
    if not nested or node.value in (None, ""):
        raise Mismatch(hint)
    return _value(_best_nested(nested, node), node, path)


def _takes_scalars(hint: Any) -> bool:
    return hint in (bool, int, float, str, type(None)) or get_origin(hint) is Literal


def _best_nested(members: list[Any], node: Node) -> Any:
    """Among lists, mappings and config classes the one whose form or keys fit best."""
    if not node.is_map:
        lists = [m for m in members if _is_sequence(m)]
        return lists[0] if lists else members[0]
    kind = node.value.get("kind")
    scores = []
    for member in members:
        cls = get_args(member)[0] if _is_sequence(member) else member
        if not dataclasses.is_dataclass(cls):
            scores.append(0.5)
            continue
        fields = hints(cls)
        named = kind is not None and kind.value in get_args(fields.get("kind"))
        scores.append(100.0 * named + sum(key in fields for key in node.value))
        scores[-1] += 0.1 * (cls is member)  # one alone rather than a list of one
    return members[scores.index(max(scores))]


def _expand(known: Mapping[str, Any], node: Node, path: str) -> Node:
    key = next((name for name in ("kind", "path") if name in known), None)
    if key is None or not node.is_scalar or node.value in (None, ""):
        raise ConfigError(
            "C104",
            f"`{path}` wants keys and values, found {_shown(node)}",
            where=str(node.place),
            fix=f"keys: {', '.join(known)}",
        )
    return Node({key: node}, node.place, keys={key: node.place})


# ---------------------------------------------------------------- scalars


def free(node: Node) -> Any:
    """A value whose type nobody declares: YAML 1.2's own reading."""
    if node.is_map:
        return {key: free(child) for key, child in node.value.items()}
    if node.is_list:
        return [free(child) for child in node.value]
    return scalar(node.value) if node.plain else node.value


def _is_null(node: Node) -> bool:
    return node.value is None or (node.plain and node.value.lower() in _NULL)


def _scalar(hint: Any, node: Node) -> Any:
    if not node.is_scalar and not (hint is str and node.raw is not None):
        raise Mismatch()
    if hint is type(None):
        if _is_null(node):
            return None
        raise Mismatch()
    if get_origin(hint) is Literal:
        return _literal(get_args(hint), node)
    readers = {bool: _bool, int: _int, float: _float, str: _str}
    if hint not in readers:
        raise TypeError(f"config fields can't be of type {hint}")
    return readers[hint](node)


def _literal(choices: tuple[Any, ...], node: Node) -> Any:
    value = node.value
    for choice in choices:
        if choice == value and isinstance(choice, type(value)):
            return choice
        if node.plain and not isinstance(choice, str) and scalar(value) == choice:
            return choice
    if isinstance(value, bool):
        raise Mismatch('quote it: "no" is text, false is not')
    known = [str(choice) for choice in choices]
    raise Mismatch(foreign.value_today(str(value), known) or did_you_mean(str(value), known))


def _bool(node: Node) -> bool:
    if isinstance(node.value, bool):
        return node.value
    word = node.value.lower() if isinstance(node.value, str) else ""
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise Mismatch()


def _natural(node: Node) -> Any:
    """A scalar as YAML 1.2 reads it; quoted text stays text."""
    return scalar(node.value) if node.plain else node.value


def _int(node: Node) -> int:
    value = _natural(node)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        raise Mismatch(f"write {int(value)}")
    raise Mismatch(_number_hint(node))


def _float(node: Node) -> float:
    value = _natural(node)
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise Mismatch("give a finite number")
        return float(value)
    raise Mismatch(_number_hint(node))


def _number_hint(node: Node) -> str:
    text = str(node.value)
    bare = text.replace("_", "").replace(",", "")
    if not isinstance(scalar(bare), int | float):
        return ""
    if bare != text:
        return f"write {bare}"
    return "" if node.plain else "write the number without quotes"


def _str(node: Node) -> str:
    if not node.is_scalar and node.raw is not None:
        return node.raw
    if isinstance(node.value, str) and not (node.plain and node.value in ("", "~", "null")):
        return node.value
    if isinstance(node.value, int | float) and not isinstance(node.value, bool):
        raise Mismatch("put it in quotes")
    raise Mismatch()
