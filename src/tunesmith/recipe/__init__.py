"""Recipes: strict to read, with the place of every error and the origin of every value."""

from tunesmith.recipe.check import complete, said
from tunesmith.recipe.describe import field_docs, part_configs, schema
from tunesmith.recipe.reading import from_dict, load, origins
from tunesmith.recipe.sections import Recipe
from tunesmith.recipe.write import LENGTH, differences, digest, dump, flatten, to_dict

__all__ = [
    "LENGTH",
    "Recipe",
    "complete",
    "differences",
    "digest",
    "dump",
    "field_docs",
    "flatten",
    "from_dict",
    "load",
    "origins",
    "part_configs",
    "said",
    "schema",
    "to_dict",
]
