"""`tunesmith config`: checks and shows recipes, and prints their JSON Schema."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tunesmith.cli import output

app = output.app(
    help="Check and show recipes; their JSON Schema.",
    examples=[
        "tunesmith config check recipe.yaml",
        "tunesmith config show recipe.yaml optim.learning_rate=1e-4",
        "tunesmith config schema optim",
        "tunesmith config schema --json > recipe.schema.json",
    ],
)

RECIPE = typer.Argument(
    help="Recipe (.yaml or file.py:function) and key=value changes.", show_default=False
)


@app.command("check")
def check(recipe: Annotated[list[str], RECIPE], json: Annotated[bool, output.JSON] = False) -> None:
    """Read a recipe strictly: keys, values, template, reports; `train --dry-run` opens model and
    data too."""
    from tunesmith import recipe as recipes
    from tunesmith.compose import reading

    path, overrides = output.split_recipe(recipe)
    loaded = reading.read(path, overrides, model=False)
    kinds = f"{loaded.stage.kind} · {loaded.tuner.kind} · {loaded.parallel.kind}"
    text = f"ok: {path or 'command line'} ({kinds})"
    value = {"ok": True, "recipe": path, "digest": recipes.digest(loaded)}
    output.result(value, json=json, text=text)


@app.command("show")
def show(
    recipe: Annotated[list[str], RECIPE],
    json: Annotated[bool, output.JSON] = False,
    changed: Annotated[
        bool, typer.Option("--changed", help="Only values that are not defaults.")
    ] = False,
) -> None:
    """Print every value of a recipe with its origin."""
    from tunesmith import recipe as recipes

    path, overrides = output.split_recipe(recipe)
    loaded = recipes.load(path, overrides)
    origins = recipes.origins(loaded)
    values = recipes.flatten(recipes.to_dict(loaded))
    kept = {key: origin for key, origin in origins.items() if not changed or origin != "default"}
    if json:
        rows = {key: {"value": values[key], "origin": origin} for key, origin in kept.items()}
        output.result(rows, json=True)
    elif changed:
        rows = [{"key": k, "value": values[k], "origin": origin} for k, origin in kept.items()]
        output.table(rows, ["key", "value", "origin"])
    else:
        output.result(None, text=recipes.dump(loaded, origins).rstrip("\n"))


@app.command("schema")
def schema(
    section: Annotated[
        str | None, typer.Argument(help="One section, e.g. optim or stage.", show_default=False)
    ] = None,
    json: Annotated[bool, output.JSON] = False,
) -> None:
    """List all keys with types and defaults; --json prints JSON Schema."""
    from tunesmith import recipe as recipes
    from tunesmith.recipe.layers import SECTIONS
    from tunesmith.recipe.tree import Place
    from tunesmith.recipe.typed import unknown_key

    if section is not None and section not in SECTIONS:
        raise unknown_key(section, Place("command line", section), "", SECTIONS)
    if json:
        output.result(recipes.schema(section), json=True)
        return
    for name in (section,) if section else SECTIONS:
        for title, cls in _classes(name):
            print(f"{title}:")
            for line in _fields(cls):
                print(f"  {line}")


def _classes(section: str) -> list[tuple[str, type]]:
    """The section's class, or one for each kind it may have."""
    from tunesmith import recipe as recipes
    from tunesmith.recipe.typed import hints

    if section in ("stage", "tuner", "parallel"):
        found = recipes.part_configs(section)
        return [(f"{section} (kind: {kind})", cls) for kind, cls in found.items()]
    return [(section, hints(recipes.Recipe)[section])]


def _fields(cls: type) -> list[str]:
    from dataclasses import MISSING, fields

    from tunesmith import recipe as recipes
    from tunesmith.recipe.typed import describe, hints

    docs = recipes.field_docs(cls)
    lines = []
    for field in fields(cls):
        default: Any = field.default
        if field.default_factory is not MISSING:
            default = field.default_factory()
        needed = "required" if default is MISSING else f"default {output.shown(default)}"
        doc = " ".join(docs.get(field.name, "").split())
        lines.append(f"{field.name:<30} {describe(hints(cls)[field.name])}; {needed}")
        lines.append(f"{'':<30}   {doc}")
    return lines
