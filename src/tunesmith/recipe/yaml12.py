"""Strict YAML: read as 1.2, with the place of every value; nothing is ever constructed from tags.

PyYAML's safe loader only scans and composes here. Scalars keep their text, because their type is
decided by the field that receives them (`scalar` is YAML 1.2's core schema, for free-form fields).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from tunesmith.errors import ConfigError
from tunesmith.recipe.problems import Problems
from tunesmith.recipe.tree import Node, Place

LIMIT_BYTES = 1_000_000
LIMIT_NODES = 20_000  # after aliases are expanded; the largest real recipe has some hundreds
LIMIT_DEPTH = 40

_IMPLICIT = "implicit"
_STRING = "tag:yaml.org,2002:str"
_INT = re.compile(r"[-+]?[0-9]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+|0o[0-7]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = {".inf": float("inf"), "+.inf": float("inf"), "-.inf": float("-inf")}
_WORDS: dict[str, Any] = {"": None, "~": None, "null": None, "true": True, "false": False}


class _Composer(yaml.SafeLoader):
    """Composes nodes and leaves every untagged one untyped."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> str:
        return _IMPLICIT


def read(path: Path, shown: str | None = None, problems: Problems | None = None) -> Node:
    """The nodes of a YAML file.

    Args:
        path: The file.
        shown: Its name in messages; default: the path as given.
        problems: Takes what leaves the rest readable (C106, C108); default: it is raised.

    Raises:
        ConfigError: C100 (can't be read), C101 (not YAML), C106 (duplicate key), C108 (refused).
    """
    name = shown or str(path)
    try:
        if path.stat().st_size > LIMIT_BYTES:
            raise ConfigError("C100", f"this file is too large for a recipe: {name}")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError("C100", f"no such recipe: {name}", fix="check the path") from None
    except IsADirectoryError:
        raise ConfigError("C100", f"{name} is a directory, not a recipe") from None
    except UnicodeDecodeError as error:
        raise ConfigError("C100", f"{name} is not UTF-8 text ({error.reason})") from None
    except OSError as error:
        raise ConfigError("C100", f"can't read {name}: {error.strerror}") from None
    return parse(text, name, path.resolve().parent, problems)


def parse(
    text: str, name: str, folder: Path | None = None, problems: Problems | None = None
) -> Node:
    """The nodes of YAML text; `name` stands for it in messages.

    Raises:
        ConfigError: C101, C106, C108; see `read`.
    """
    reader = _Reader(text, name, folder)
    try:
        composer = _Composer(text)
        if not composer.check_node():
            raise ConfigError("C101", "the recipe is empty", where=name)
        root = composer.get_node()
        if composer.check_node():
            second: Any = composer.get_node()
            raise ConfigError(
                "C108",
                "more than one YAML document in a recipe",
                where=str(reader.place(second.start_mark)),
                fix="one file, one recipe: remove `---`, or split the file",
            )
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = str(reader.place(mark)) if mark else name
        what = error.problem or error.context or "not readable"
        raise ConfigError("C101", f"not valid YAML: {what}", where=where) from None
    except yaml.YAMLError as error:
        raise ConfigError(
            "C101", f"not valid YAML: {str(error).splitlines()[0]}", where=name
        ) from None
    except RecursionError:
        raise ConfigError("C108", "nested too deeply for a recipe", where=name) from None
    node = reader.node(root, ())
    if problems is None:
        reader.problems.raise_any()
    else:
        problems.found += reader.problems.found
    return node


def scalar(text: str) -> Any:
    """A plain scalar by YAML 1.2's core schema: None, bool, int, float or str."""
    word = text.lower() if text in (text.lower(), text.upper(), text.capitalize()) else text
    if word in _WORDS:
        return _WORDS[word]
    if _INT.fullmatch(text):
        return int(text)
    if _HEX.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    if word in _SPECIAL:
        return _SPECIAL[word]
    return float("nan") if word == ".nan" else text


class _Reader:
    """Turns PyYAML's nodes into ours, expanding aliases under a limit."""

    def __init__(self, text: str, name: str, folder: Path | None):
        self.lines = text.splitlines()
        self.name = name
        self.folder = folder
        self.count = 0
        self.problems = Problems()

    def place(self, mark: Any) -> Place:
        line = self.lines[mark.line] if mark.line < len(self.lines) else ""
        return Place(f"{self.name}:{mark.line + 1}:{mark.column + 1}", line, self.folder)

    def node(self, found: Any, above: tuple[int, ...]) -> Node:
        place = self.place(found.start_mark)
        self.count += 1
        if self.count > LIMIT_NODES or len(above) > LIMIT_DEPTH or id(found) in above:
            raise ConfigError(
                "C108",
                "aliases or nesting make this recipe explode",
                where=str(place),
                fix="write the values out, or share them with `extends:`",
            )
        if found.tag not in (_IMPLICIT, _STRING):
            what = f"the YAML tag `{found.tag}` is refused: recipes hold plain data"
            self.problems.add(ConfigError("C108", what, where=str(place), fix="remove the tag"))
        above = (*above, id(found))
        if isinstance(found, yaml.ScalarNode):
            plain = found.style is None and found.tag == _IMPLICIT
            return Node(found.value, place, plain=plain)
        if isinstance(found, yaml.SequenceNode):
            return Node([self.node(child, above) for child in found.value], place)
        return self._mapping(found, place, above)

    def _mapping(self, found: Any, place: Place, above: tuple[int, ...]) -> Node:
        result = Node({}, place)
        for key_node, child in found.value:
            key_place = self.place(key_node.start_mark)
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError("C101", "a key must be a name", where=str(key_place))
            key = key_node.value
            refused = self._refused_key(key, key_place, result)
            if refused is not None:
                self.problems.add(refused)
                continue
            result.put(key, self.node(child, above), key_place)
        return result

    def _refused_key(self, key: str, place: Place, result: Node) -> ConfigError | None:
        """What is wrong with a key that YAML allows, if anything."""
        if key == "<<":
            return ConfigError(
                "C108",
                "merge keys (`<<`) are not part of YAML 1.2",
                where=str(place),
                fix="use `extends: other.yaml`",
            )
        if key in result.value:
            return ConfigError(
                "C106",
                f"the key `{key}` is given twice",
                where=str(place),
                why=f"first given at {result.key_place(key).origin}",
                fix="keep one of them",
            )
        return None
