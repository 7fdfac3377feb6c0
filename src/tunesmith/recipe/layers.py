"""Where values come from: files with `extends:`, the environment, the command line.

Each source is a layer of nodes; later layers lie on earlier ones: defaults < recipe (its bases
first) < environment < command line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path

from tunesmith.errors import ConfigError
from tunesmith.recipe import foreign, yaml12
from tunesmith.recipe.problems import Problems
from tunesmith.recipe.tree import SECTIONS, Node, Place, empty, expand_shorthand, merge
from tunesmith.recipe.typed import unknown_key
from tunesmith.registry import did_you_mean

ENVIRONMENT = "TUNESMITH__"
SHIPPED = Path(str(resources.files("tunesmith"))) / "recipes"
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*")


def from_file(
    path: Path, shown: str | None, problems: Problems, above: tuple[Path, ...] = ()
) -> Node:
    """The recipe file laid on the files it extends; `problems` takes what leaves the rest readable.

    Raises:
        ConfigError: C100–C108 from reading; C109, `extends` runs in a circle.
    """
    resolved = path.resolve()
    if resolved in above:
        names = " → ".join(p.name for p in (*above[above.index(resolved) :], resolved))
        raise ConfigError("C109", f"`extends` runs in a circle: {names}", fix="remove one of them")
    root = yaml12.read(path, shown, problems)
    if not root.is_map:
        raise ConfigError(
            "C104",
            "a recipe is a mapping of sections",
            where=str(root.place),
            fix=f"sections: {', '.join(SECTIONS)}",
        )
    refuse_secrets(root)
    expand_shorthand(root)
    base = root.value.pop("extends", None)
    if base is None:
        return root
    with problems.gathering():
        return merge(from_file(_extended(base, path), None, problems, (*above, resolved)), root)
    return root


def _extended(base: Node, path: Path) -> Path:
    """The file that `extends:` of `path` names."""
    if not base.is_scalar or not base.value:
        raise ConfigError("C104", "`extends` wants one file name", where=str(base.place))
    target = Path(str(base.value))
    if not target.is_absolute():
        target = path.parent / target
    if target.is_file():
        return target
    ours = shipped(str(base.value))
    if ours is None:
        raise ConfigError(
            "C100",
            f"the recipe to extend is not there: {target}",
            where=str(base.place),
            fix="give a path relative to this file, or the name of a recipe that ships",
        )
    return ours


def shipped(name: str) -> Path | None:
    """The recipe of that name that ships, with or without `.yaml`: `sft-lora`, `chain/2-sft`."""
    for path in (SHIPPED / name, SHIPPED / f"{name}.yaml"):
        if path.is_file() and path.is_relative_to(SHIPPED) and ".." not in path.parts:
            return path
    return None


def from_environment(environ: Mapping[str, str], problems: Problems) -> Node:
    """A layer of `TUNESMITH__SECTION__KEY=value` variables."""
    layer = empty(Place("environment"))
    for name in sorted(environ):
        if name.startswith(ENVIRONMENT):
            key = name[len(ENVIRONMENT) :].lower().replace("__", ".")
            place = Place("environment", f"{name}={environ[name]}")
            if not _KEY.fullmatch(key) or key.split(".")[0] not in SECTIONS:
                problems.add(unknown_key(key.split(".")[0], place, "", SECTIONS))
                continue
            set_path(layer, key.split("."), value_node(environ[name], place), place)
    refuse_secrets(layer)
    return layer


def from_command_line(
    overrides: Sequence[str],
    candidates: Callable[[Sequence[str]], Mapping[str, list[str]]],
    problems: Problems,
) -> Node:
    """A layer of `section.key=value`, or `key=value` where the leaf is unique.

    Args:
        overrides: As given on the command line, in order; later ones win.
        candidates: From the overrides with a section to a dict leaf → dotted paths. Which
            leaves there are depends on the stage, tuner and backend they name.
        problems: Takes C111 ambiguous leaf, C112 not `key=value`, C102/C103 unknown key.
    """
    layer = empty(Place("command line"))
    pairs = []
    for text in overrides:
        with problems.gathering():
            pairs.append((text, *split(text)))
    placed = [text for text, key, _ in pairs if _has_section(key)]
    leaves: Mapping[str, list[str]] | None = {}
    if len(placed) < len(pairs):
        leaves = None
        with problems.gathering():  # of an unknown kind nobody knows the leaves
            leaves = candidates(placed)
    for text, key, value in pairs:
        place = Place("command line", text)
        with problems.gathering():
            if _has_section(key):
                path = key
            elif leaves is None:
                continue
            else:
                path = find_leaf(key, leaves, place)
            set_path(layer, path.split("."), value_node(value, place), place)
    refuse_secrets(layer)
    return layer


def split(text: str) -> tuple[str, str]:
    """`key.path=value` in two.

    Raises:
        ConfigError: C112.
    """
    key, equals, value = text.partition("=")
    key = key.strip().removeprefix("--")
    if not equals or not _KEY.fullmatch(key):
        raise ConfigError(
            "C112",
            f"`{text}` is not an override",
            where="command line",
            fix="write section.key=value, e.g. optim.learning_rate=1e-4",
        )
    return key, value


def _has_section(key: str) -> bool:
    return key.split(".")[0] in SECTIONS


def find_leaf(key: str, leaves: Mapping[str, list[str]], place: Place) -> str:
    """The dotted path of a leaf given alone (`learning_rate`, or `config.hidden_size`).

    Raises:
        ConfigError: C111 if several sections have it, C102 or C103 if none.
    """
    head, dot, rest = key.partition(".")
    paths = leaves.get(head, [])
    if len(paths) == 1:
        return paths[0] + dot + rest
    if paths:
        raise ConfigError(
            "C111",
            f"`{head}` stands in several sections",
            where=str(place),
            fix="write one of: " + ", ".join(path + dot + rest for path in paths),
        )
    if foreign.today(head):
        raise unknown_key(head, place, "", SECTIONS)
    nearest = did_you_mean(head, list(leaves))
    raise ConfigError(
        "C102",
        f"unknown key `{head}`",
        where=str(place),
        fix=f"{nearest}  all keys: tunesmith config schema".strip(),
    )


def value_node(text: str, place: Place) -> Node:
    """An override's value: YAML 1.2, or the text itself where that is not a list or mapping."""
    stripped = text.strip()
    if stripped[:1] in ("[", "{", '"', "'"):
        try:
            node = yaml12.parse(stripped, place.origin)
        except ConfigError as error:
            if error.code != "C101":
                raise
        else:
            relocate(node, place)
            node.raw = text
            return node
    return Node(stripped, place, plain=True, raw=text)


def relocate(node: Node, place: Place) -> None:
    """Gives a whole tree one place: line and column mean nothing outside a file."""
    node.place = place
    node.keys = dict.fromkeys(node.keys, place)
    for _, _, child, _ in node.walk():
        child.place = place
        child.keys = dict.fromkeys(child.keys, place)


def set_path(layer: Node, keys: Sequence[str], node: Node, place: Place) -> None:
    """Puts `node` at a dotted path; what else this layer holds stays (`tuner.r=8 tuner=lora`)."""
    fresh = node
    for key in reversed(keys):
        fresh = Node({key: fresh}, place, keys={key: place})
    expand_shorthand(fresh)
    _put(layer, fresh)


def _put(layer: Node, fresh: Node) -> None:
    for key, child in fresh.value.items():
        old = layer.value.get(key)
        if old is not None and old.is_map and child.is_map:
            _put(old, child)
        else:
            layer.put(key, child, fresh.key_place(key))


def refuse_secrets(root: Node) -> None:
    """Raises ConfigErrors C107 on keys and values that look like credentials; never shows them,
    nor what else is wrong, for the lines shown with that might hold them."""
    problems = Problems()
    for path, key, node, place in root.walk():
        if node.is_scalar and foreign.is_secret(key, node.value):
            what = f"`{path}` looks like a secret, and recipes are copied into every run directory"
            fix = "remove it; give it by its tool's own environment variable, e.g. HF_TOKEN"
            problems.add(ConfigError("C107", what, where=place.origin, fix=fix))
    problems.raise_any()
