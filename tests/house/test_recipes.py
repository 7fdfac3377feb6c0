"""Every recipe that ships parses, and is written in the words of today's field names."""

from __future__ import annotations

import re

import pytest

from tests.house.source import PACKAGE, ROOT
from tunesmith import recipe as recipes

RECIPES = sorted((PACKAGE / "recipes").rglob("*.yaml")) + sorted((ROOT / "docs").rglob("*.yaml"))
ROW = r"^\| \[(\S+)\]\((\S+)\) \| `(\w+)`"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_parses(path):
    loaded = recipes.load(path)
    assert loaded.model.path or loaded.model.config


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_survives_a_dump(path, tmp_path):
    loaded = recipes.load(path)
    copy = tmp_path / path.name
    copy.write_text(recipes.dump(loaded), encoding="utf-8")
    assert recipes.to_dict(recipes.load(copy)) == recipes.to_dict(loaded)


def test_the_page_of_recipes_lists_each_with_its_stage():
    folder = PACKAGE / "recipes"
    page = (ROOT / "recipes" / "README.md").read_text("utf-8")
    told = {match[1]: (match[2], match[3]) for match in re.finditer(ROW, page, re.MULTILINE)}
    shipped = {
        str(path.relative_to(folder).with_suffix("")): (
            f"../src/tunesmith/recipes/{path.relative_to(folder)}",
            recipes.load(path).stage.kind,
        )
        for path in folder.rglob("*.yaml")
    }
    assert told == shipped
    assert "recipes/README.md" in (ROOT / "README.md").read_text("utf-8")
