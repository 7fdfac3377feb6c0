"""A recipe before it has types: nodes that remember where each value was written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from tunesmith.recipe.sections import Recipe


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands: in a file, in the environment, on the command line."""

    origin: str
    """`recipe.yaml:14:3`, `environment`, `command line` or `default`."""
    text: str = ""
    """The offending line, or the override as given."""
    folder: Path | None = None
    """Folder of the file; its relative paths are looked up there first."""

    def __str__(self) -> str:
        shown = self.text.strip()
        shown = shown if len(shown) <= 90 else shown[:87] + "…"
        return f"{self.origin}      {shown}" if shown else self.origin


DEFAULT = Place("default")


@dataclass(slots=True)
class Node:
    """A scalar (text, or a Python value), a list of nodes, or a dict of nodes.

    The text of a plain scalar has no type of its own: the field that receives it decides, so that
    `no` is a string where a string is wanted and false where a boolean is.
    """

    value: Any
    place: Place
    plain: bool = False
    """An unquoted YAML scalar."""
    keys: dict[str, Place] = field(default_factory=dict)
    """Places of a dict's keys."""
    raw: str | None = None
    """An override's text as given, for fields that want a string."""

    @property
    def is_map(self) -> bool:
        return isinstance(self.value, dict)

    @property
    def is_list(self) -> bool:
        return isinstance(self.value, list)

    @property
    def is_scalar(self) -> bool:
        return not isinstance(self.value, dict | list)

    def key_place(self, key: str) -> Place:
        return self.keys.get(key, self.place)

    def put(self, key: str, child: Node, place: Place) -> None:
        self.value[key] = child
        self.keys[key] = place

    def walk(self, prefix: str = "") -> Iterator[tuple[str, str, Node, Place]]:
        """(dotted path, key, node, key's place) of everything inside, outer first."""
        pairs: Any = ()
        if self.is_map:
            pairs = ((key, child, self.key_place(key)) for key, child in self.value.items())
        elif self.is_list:
            pairs = ((str(i), child, child.place) for i, child in enumerate(self.value))
        for key, child, place in pairs:
            path = f"{prefix}.{key}" if prefix else key
            yield path, key, child, place
            yield from child.walk(path)


def empty(place: Place) -> Node:
    """A dict with nothing in it."""
    return Node({}, place)


def from_python(value: Any, place: Place) -> Node:
    """Nodes of plain Python data (dicts, lists, tuples, scalars)."""
    if isinstance(value, Mapping):
        children = {str(key): from_python(child, place) for key, child in value.items()}
        return Node(children, place, keys=dict.fromkeys(children, place))
    if isinstance(value, list | tuple):
        return Node([from_python(child, place) for child in value], place)
    return Node(value, place)


# Sections where a bare string stands for one field of a dict.
SHORTHAND = {
    "stage": "kind",
    "tuner": "kind",
    "parallel": "kind",
    "model": "path",
    "data": "train",
}

SECTIONS = tuple(field.name for field in fields(Recipe))

# Fields of which a later layer's replaces an earlier layer's: with them go those that only made
# sense beside the replaced one (a tokenizer belongs to its model).
EXCLUSIVE = {
    "model": (("path", "config"), ("tokenizer", "revision")),
    "data.eval": (
        ("path", "fraction", "count"),
        (
            "format",
            "columns",
            "weight",
            "system",
            "max_samples",
            "fill",
            "subset",
            "split",
            "revision",
        ),
    ),
}

# What a section without `kind` is.
KINDS = {f.name: f.default for f in fields(Recipe) if SHORTHAND.get(f.name) == "kind"}


def expand_shorthand(root: Node) -> None:
    """Turns `stage: sft` into `stage: {kind: sft}`, and the like, in place.

    A section with nothing below it (all its lines commented out, say) is an empty one.
    """
    for section, key in SHORTHAND.items():
        node = root.value.get(section)
        if node is not None and node.is_scalar:
            place = root.key_place(section)
            root.value[section] = Node({key: node}, node.place, keys={key: place})
    for section, node in root.value.items():
        if section in SECTIONS and node.plain and node.value == "":
            root.value[section] = empty(node.place)


def merge(base: Node, over: Node, path: str = "") -> Node:
    """`over` laid on `base`: dicts merge key by key, everything else is replaced.

    Another `kind` replaces the whole part, since its other fields belonged to the old kind.
    """
    if not (base.is_map and over.is_map):
        return over
    if "kind" in over.value and _kind(over, path) != _kind(base, path):
        return over
    merged = Node(dict(base.value), base.place, keys=dict(base.keys))
    _drop_replaced(merged, over, path)
    for key, child in over.value.items():
        old = merged.value.get(key)
        below = f"{path}.{key}" if path else key
        new = child if old is None else merge(old, child, below)
        merged.put(key, new, over.key_place(key) if new is child else merged.key_place(key))
    return merged


def _kind(node: Node, path: str) -> str:
    kind = node.value.get("kind")
    return str(KINDS.get(path, "") if kind is None else kind.value)


def _drop_replaced(merged: Node, over: Node, path: str) -> None:
    rivals, followers = EXCLUSIVE.get(path, ((), ()))
    given = [name for name in rivals if name in over.value]
    if not given or all(_both_maps(merged, over, name) for name in given):
        return  # a dict (a model's config) is merged into, not replaced
    for name in (*rivals, *followers):
        merged.value.pop(name, None)


def _both_maps(merged: Node, over: Node, name: str) -> bool:
    return name in merged.value and merged.value[name].is_map and over.value[name].is_map
