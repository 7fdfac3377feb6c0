"""From a file, a dict or a Python function to a Recipe, with the origin of every value."""

from __future__ import annotations

import dataclasses
import os
import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith import registry
from tunesmith.errors import ConfigError, ConfigErrors, TunesmithError
from tunesmith.recipe import check, foreign, layers, write
from tunesmith.recipe.problems import Problems
from tunesmith.recipe.sections import Recipe
from tunesmith.recipe.tree import DEFAULT, Node, Place, empty, expand_shorthand, from_python, merge
from tunesmith.recipe.typed import build, free, hints, unknown_key
from tunesmith.registry import did_you_mean

PARTS = {"stage": "stages", "tuner": "tuners", "parallel": "parallel"}
"""Sections whose Config class is found in the registry by `kind`."""

Check = Callable[[Mapping[str, Any]], None]
"""Refuses what sections, by name, say; a section that could not be read is not among them."""

# Values that may name a file or folder: looked up beside the recipe first, then here.
PATHS = ("model.path", "model.tokenizer", "data.template", "data.dataset_info")
_TEMPLATE_FILES = (".jinja", ".toml", ".json")
_DEFAULTS = {field.name: field for field in dataclasses.fields(Recipe)}


def load(
    path: str | os.PathLike[str] | None,
    overrides: Sequence[str] = (),
    *,
    environ: Mapping[str, str] | None = None,
    also: Sequence[Check] = (),
) -> Recipe:
    """The recipe of a file, with environment and overrides laid on it.

    Precedence: defaults < recipe (`extends:` first) < `TUNESMITH__SECTION__KEY` < overrides.

    Args:
        path: `recipe.yaml`, the name of a shipped recipe, `file.py:function` returning a Recipe,
            or None: overrides only.
        overrides: `section.key=value`, or `key=value` where the key is unique.
        environ: Environment variables; default: the process's own. A run that is resumed reads
            its resolved.yaml with {}, for the environment was already laid on it.
        also: Further checks, called with the sections that could be read; what they raise is told
            with the rest, and a dotted key that they give as its place becomes file and line.

    Raises:
        ConfigError: C100–C114, naming file, line and column; ConfigErrors, with all that is wrong,
            if that is more than one thing.
    """
    problems = Problems()
    if path is None:
        base = empty(DEFAULT)
    elif _is_python(str(path)):
        base = _from_python_file(str(path))
    else:
        base = layers.from_file(*_find(Path(path)), problems)
    given = os.environ if environ is None else environ
    base = merge(base, layers.from_environment(given, problems))

    def candidates(placed: Sequence[str]) -> dict[str, list[str]]:
        return leaves(merge(base, layers.from_command_line(placed, lambda _: {}, Problems())))

    layer = layers.from_command_line(overrides, candidates, problems)
    return _assemble(merge(base, layer), problems, also)


def _find(path: Path) -> tuple[Path, str]:
    """The file, and its name in messages; a bare name may be that of a shipped recipe.

    Raises:
        ConfigError: C100, a bare name that is neither a file nor a shipped recipe.
    """
    folder = layers.SHIPPED
    ours = str(path.parent) in (".", "chain")
    if ours and not path.exists():
        found = layers.shipped(str(path))
        if found is not None:
            return found, f"recipes/{found.relative_to(folder)}"
        names = [str(file.relative_to(folder).with_suffix("")) for file in folder.rglob("*.yaml")]
        near = did_you_mean(str(path.with_suffix("")), names)
        fix = f"{near} check the path, or take one that ships: {', '.join(sorted(names))}"
        raise ConfigError("C100", f"no such recipe: {path}", fix=fix.strip())
    return path, str(path)


def from_dict(data: Mapping[str, Any]) -> Recipe:
    """The recipe of plain data: what `to_dict` gives, or a part of it.

    Raises:
        ConfigError: C102–C114.
    """
    return _assemble(from_nodes_of(data, Place("dict")), Problems())


def from_nodes_of(data: Mapping[str, Any], place: Place) -> Node:
    """A layer of plain data, checked and with shorthands expanded."""
    root = from_python(data, place)
    layers.refuse_secrets(root)
    expand_shorthand(root)
    return root


def origins(recipe: Recipe) -> dict[str, str]:
    """Where each value came from, by dotted path: `recipe.yaml:14:3`, `default` and so on."""
    given = vars(recipe).get("_origins", {})
    return {path: _origin(path, given) for path in write.flatten(write.to_dict(recipe))}


def _origin(path: str, given: Mapping[str, str]) -> str:
    """Looks through the shorthands: one source for a list of it, a string for `path` or `kind`."""
    head, _, leaf = path.rpartition(".")
    spellings = [path, path.replace(".0.", ".", 1)]
    if leaf in ("path", "kind"):
        spellings += [head, head.removesuffix(".0")]
    return next((given[name] for name in spellings if name in given), "default")


# ---------------------------------------------------------------- assembling


def _assemble(root: Node, problems: Problems, also: Sequence[Check] = ()) -> Recipe:
    for key in root.value:
        if key not in _DEFAULTS:
            known = tuple(_DEFAULTS)
            place = root.key_place(key)
            problems.add(unknown_key(key, place, "", known, lambda k: _belongs(k, root)))
    _resolve_paths(root)
    sections = {}
    for name in _DEFAULTS:
        with problems.gathering():
            sections[name] = _section(name, root)
    with problems.gathering():
        check.together(sections, root)
    for further in also:
        with problems.gathering():
            _placed(further, sections, root)
    problems.raise_any()
    recipe = Recipe(**sections)
    given = {
        path: place.origin
        for path, _, node, place in root.walk()
        if not (node.is_map and node.value)
    }
    # Kept beside the fields: origins are about this object and take no part in equality.
    object.__setattr__(recipe, "_origins", given)
    return recipe


def _placed(further: Check, sections: Mapping[str, Any], root: Node) -> None:
    """Runs a check; what it raises about a key of the recipe gets the key's place."""
    try:
        further(sections)
    except TunesmithError as error:
        if not isinstance(error, ConfigErrors) and error.where.split(".")[0] in root.value:
            error.where = str(check.place(error.where, root))
        raise


def _refuse_bare_number(root: Node) -> None:
    """`data.eval: 0.05` would be a file of that name; nobody means that."""
    data = root.value.get("data")
    node = data.value.get("eval") if data is not None and data.is_map else None
    if node is None or not node.is_scalar:
        return
    number = free(node)
    if isinstance(number, int | float) and not isinstance(number, bool):
        key = "fraction" if number < 1 else "count"
        raise ConfigError(
            "C104",
            f"`data.eval` wants files, {{fraction: …}} or {{count: …}}, found `{node.value}`",
            where=str(node.place),
            fix=f"write {{{key}: {node.value}}}",
        )


def _section(name: str, root: Node) -> Any:
    hint = hints(Recipe)[name]
    node = root.value.get(name)
    if name in PARTS:
        node = node or Node({}, DEFAULT)
        return build(part_config(name, node), node, name, lambda key: _belongs(key, root))
    if node is None:
        return hint()
    if name == "data":
        _refuse_bare_number(root)
    return build(hint, node, name, lambda key: _belongs(key, root))


def part_config(section: str, node: Node) -> type:
    """The Config class that a stage's, tuner's or backend's `kind` names.

    Raises:
        ConfigError: C110, no such kind.
    """
    kind = node.value.get("kind") if node.is_map else node
    if kind is not None and not (kind.is_scalar and kind.value):
        raise ConfigError(
            "C104",
            f"`{section}` wants a name or {{kind: name, …}}",
            where=str(kind.place),
            fix=f"known: {', '.join(registry.names(PARTS[section]))}",
        )
    name = str(_DEFAULTS[section].default if kind is None else kind.value)
    try:
        return registry.load(PARTS[section], name).Config
    except ConfigError as error:
        if error.code == "C110" and kind is not None:
            error.where = str(kind.place)
            instead = foreign.value_today(name, registry.names(PARTS[section]))
            error.fix = f"{instead}  {error.fix}".strip()
        raise


def leaves(root: Node) -> dict[str, list[str]]:
    """Every leaf key with the dotted paths it stands at, under the kinds that `root` names."""
    found: dict[str, list[str]] = {}
    for section, hint in hints(Recipe).items():
        cls = hint
        if section in PARTS:
            node = root.value.get(section) or Node({}, DEFAULT)
            cls = part_config(section, node)
        for key in hints(cls):
            found.setdefault(key, []).append(f"{section}.{key}")
    return found


def _belongs(key: str, root: Node) -> str:
    """Where a key that was put in the wrong section belongs, if that is one place."""
    try:
        paths = leaves(root).get(key, [])
    except ConfigError:
        return ""
    return " or ".join(f"`{path}`" for path in paths).strip("`")


def _resolve_paths(root: Node) -> None:
    """Makes paths of files that exist absolute: beside the recipe first, else from here.

    A name that is no file (a hub id, `builtin:…`, a template's name) is left as it is.
    """
    places = [path.split(".") for path in PATHS]
    for keys in places:
        section = root.value.get(keys[0])
        if section is None or not section.is_map or keys[1] not in section.value:
            continue
        node = section.value[keys[1]]
        if keys[1] != "template" or str(node.value).endswith(_TEMPLATE_FILES):
            _resolve(node)
    data = root.value.get("data")
    for key in ("train", "eval"):
        if data is None or not data.is_map or key not in data.value:
            continue
        sources = data.value[key]
        for source in sources.value if sources.is_list else [sources]:
            if source.is_scalar:
                _resolve(source, names=True)
            elif source.is_map and "path" in source.value:
                _resolve(source.value["path"], names=True)


def _resolve(node: Node, *, names: bool = False) -> None:
    """One path; with `names` also that of a data set that a dataset_info.json beside it knows."""
    if not isinstance(node.value, str) or not node.value:
        return
    name, colon, function = node.value.partition(".py:")  # rows of a function
    name += ".py" if colon else ""
    if ":" in name[2:]:
        return
    given = Path(name).expanduser()
    for folder in (node.place.folder, Path.cwd()):
        if folder is None:
            continue
        told = names and (folder / given).parent.joinpath("dataset_info.json").is_file()
        if told or (folder / given).exists():
            found = str((folder / given).resolve())
            node.value, node.plain = f"{found}:{function}" if colon else found, False
            return


# ---------------------------------------------------------------- recipes in Python


def _is_python(path: str) -> bool:
    file, colon, function = path.rpartition(":")
    return bool(colon) and file.endswith(".py") and function.isidentifier()


def _from_python_file(spec: str) -> Node:
    file, _, function = spec.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise ConfigError("C100", f"no such recipe: {file}")
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)  # as `python file.py` would
    try:
        made = runpy.run_path(str(path), run_name=path.stem)
        if not callable(made.get(function)):
            raise ConfigError("C113", f"{file} has no function `{function}`", where=file)
        recipe = made[function]()
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            "C113", f"{spec} failed: {type(error).__name__}: {error}", where=file
        ) from error
    finally:
        sys.path.remove(folder)
    if not isinstance(recipe, Recipe):
        raise ConfigError(
            "C113",
            f"{spec} returned {type(recipe).__name__}, not a Recipe",
            where=file,
            fix="return tunesmith.Recipe(…) or recipe.from_dict({…})",
        )
    place = Place(spec, folder=Path(folder))
    return from_nodes_of(write.to_dict(recipe, defaults=False), place)
