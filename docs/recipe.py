"""Writes docs/recipe.md from the dataclasses of the recipe: `make docs`; a house test compares."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from tunesmith import recipe as recipes

PAGE = Path(__file__).with_suffix(".md")
PARTS = ("stage", "tuner", "parallel")
HEAD = """# The recipe, key by key

Written by `make docs` from the docstrings of the fields; don't edit it by hand. `tunesmith config
show RECIPE` prints every value of a recipe with its origin, `tunesmith config schema` this page as
JSON Schema. A bare string is shorthand for `{kind: …}` (stage, tuner, parallel) or `{path: …}`
(model, data sources). On the command line: `tunesmith train recipe.yaml optim.learning_rate=1e-4`.
"""


def page() -> str:
    """The whole page."""
    text = [HEAD]
    docs = recipes.field_docs(recipes.Recipe)
    for field in dataclasses.fields(recipes.Recipe):
        text.append(f"\n## {field.name}\n{docs[field.name]}\n")
        if field.name in PARTS:
            text += [part(kind, cls) for kind, cls in recipes.part_configs(field.name).items()]
        else:
            text.append(table(field.default_factory))
    text.append("\n## Sources\nAn item of `data.train` and `data.eval`.\n")
    from tunesmith.recipe.sections import Holdout, Source

    text += [table(Source), "\nInstead of files, `data.eval` may take rows of the training data:\n"]
    text.append(table(Holdout))
    return "\n".join(text) + "\n"


def part(kind: str, cls: type) -> str:
    """One stage, tuner or backend with the settings of its own."""
    fields = [field for field in dataclasses.fields(cls) if field.name != "kind"]
    title = f"\n### {kind}\n{(cls.__doc__ or '').strip().splitlines()[0]}\n"
    return title + ("\n" + table(cls) if fields else "")


def table(cls: Any) -> str:
    """Key, type, default and meaning of each field."""
    docs = recipes.field_docs(cls)
    rows = ["| key | type | default | |", "|---|---|---|---|"]
    for field in dataclasses.fields(cls):
        if field.name != "kind":
            cells = field.name, kind_of(field.type), default_of(field), docs[field.name]
            rows.append("| `{}` | {} | {} | {} |".format(*(escape(cell) for cell in cells)))
    return "\n".join(rows)


WORDS = {
    "Mapping[str, Any]": "mapping",
    "Mapping[str, str]": "mapping",
    "Dtype": "auto · float32 · bfloat16 · float16",
    "str": "text",
    "bool": "true/false",
    "float": "number",
    "int": "integer",
    "None": "null",
}


def kind_of(annotation: str) -> str:
    """A type annotation in the words of YAML."""
    text = re.sub(
        r"Literal\[([^\]]+)\]", lambda m: " · ".join(re.findall(r"[\w-]+", m[1])), annotation
    )
    pieces = [piece.strip() for piece in text.split(" | ")]
    return " or ".join(in_words(piece) for piece in pieces)


def in_words(piece: str) -> str:
    if inner := re.fullmatch(r"tuple\[(.+), \.\.\.\]", piece):
        return f"list of {in_words(inner[1])}"
    return WORDS.get(piece, piece)


def default_of(field: dataclasses.Field) -> str:
    """A default as one would write it in YAML."""
    value = field.default
    if value is dataclasses.MISSING:
        if field.default_factory is dataclasses.MISSING:
            return "needed"
        value = field.default_factory()
    return f"`{json.dumps(value, ensure_ascii=False, default=str)}`"


def escape(cell: str) -> str:
    return " ".join(cell.split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
