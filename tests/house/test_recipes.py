"""Every recipe that ships parses, and is written in the words of today's field names."""

from __future__ import annotations

import pytest

from tests.house.source import PACKAGE, ROOT
from tunesmith import recipe as recipes

RECIPES = sorted((PACKAGE / "recipes").rglob("*.yaml")) + sorted((ROOT / "docs").rglob("*.yaml"))


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
