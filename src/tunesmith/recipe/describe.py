"""The JSON Schema of recipes and the docstrings of their fields: for help, docs and web forms."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import sys
from functools import lru_cache
from typing import Any, get_args

from tunesmith import registry
from tunesmith.recipe.reading import PARTS
from tunesmith.recipe.sections import Recipe
from tunesmith.recipe.tree import KINDS
from tunesmith.recipe.typed import hints


@lru_cache
def field_docs(cls: type) -> dict[str, str]:
    """The docstring under each field of a config class, inherited ones included.

    Python keeps no docstrings of attributes, so the source is read.
    """
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            docs |= _docs_of(base)
    return docs


def _docs_of(cls: type) -> dict[str, str]:
    tree = ast.parse(inspect.getsource(sys.modules[cls.__module__]))
    body = next(
        node.body
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and node.name == cls.__name__
    )
    docs = {}
    for field, below in itertools.pairwise(body):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            docs[field.target.id] = inspect.cleandoc(str(below.value.value))
    return docs


def schema(section: str | None = None) -> dict[str, Any]:
    """JSON Schema (2020-12) of a recipe, with every stage, tuner and backend that is registered.

    Args:
        section: Only this section, e.g. `optim` or `stage`; default: the whole recipe.
    """
    from pydantic import TypeAdapter

    parts = {name: part_configs(name) for name in PARTS}
    defs: dict[str, Any] = {}
    for cls in (Recipe, *(cls for found in parts.values() for cls in found.values())):
        made = TypeAdapter(cls).json_schema(ref_template="#/$defs/{model}")
        defs |= made.pop("$defs", {})
        defs[cls.__name__] = made
    classes = _reachable([Recipe, *(c for found in parts.values() for c in found.values())])
    for name, body in defs.items():
        _document(body, classes[name])
    root = defs.pop("Recipe")
    for name, found in parts.items():
        root["properties"][name] = _part(name, found, root["properties"][name])
    for name, cls in hints(Recipe).items():
        if name == "model":
            root["properties"][name] = _or_text(root["properties"][name])
        elif name not in PARTS and not dataclasses.is_dataclass(cls):
            raise TypeError(f"recipe section {name} is not a dataclass")
    _sources_shorthand(defs["DataConfig"]["properties"])
    of_model = defs["ModelConfig"]["properties"]
    of_model["quantize"] = _or_text(of_model["quantize"])
    root["properties"]["extends"] = {
        "type": "string",
        "description": "Recipe file that this one is laid on; path relative to this file.",
    }
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    if section is not None:
        root = root["properties"][section]
    return {**head, **root, "$defs": defs}


def part_configs(section: str) -> dict[str, type]:
    """Kind → Config class of every stage, tuner or backend."""
    kind = PARTS[section]
    return {name: registry.load(kind, name).Config for name in registry.names(kind)}


def _reachable(roots: list[type]) -> dict[str, type]:
    """Config classes by name, found through field types."""
    found: dict[str, type] = {}
    queue: list[Any] = list(roots)
    while queue:
        hint = queue.pop()
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            if hint.__name__ not in found:
                found[hint.__name__] = hint
                queue += hints(hint).values()
        else:
            queue += [arg for arg in get_args(hint) if arg is not Ellipsis]
    return found


def _document(body: dict[str, Any], cls: type) -> None:
    body["additionalProperties"] = False
    body["description"] = inspect.cleandoc(cls.__doc__ or "")
    for name, text in field_docs(cls).items():
        body["properties"][name]["description"] = text


def _part(name: str, found: dict[str, type], old: dict[str, Any]) -> dict[str, Any]:
    refs = [{"$ref": f"#/$defs/{cls.__name__}"} for cls in found.values()]
    new = {"anyOf": [{"type": "string", "enum": sorted(found)}, *refs], "default": KINDS[name]}
    return {**new, "description": old["description"]}


def _or_text(old: dict[str, Any]) -> dict[str, Any]:
    """A field that a bare string may stand for."""
    keep = {key: old[key] for key in ("description", "default") if key in old}
    rest = {key: value for key, value in old.items() if key not in keep}
    choices = rest.pop("anyOf", [rest])
    return {"anyOf": [{"type": "string"}, *choices], **keep}


def _sources_shorthand(properties: dict[str, Any]) -> None:
    text_or_source = {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/Source"}]}
    for name in ("train", "eval"):
        choices = properties[name].get("anyOf", [properties[name]])
        for choice in choices:
            if choice.get("type") == "array":
                choice["items"] = text_or_source
        properties[name] = _or_text(properties[name])
