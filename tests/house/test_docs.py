"""Pages that are made from the source say what the source says."""

from __future__ import annotations

import importlib.util

import pytest

from tests.house.source import ROOT


def test_recipe_page_is_current():
    path = ROOT / "docs" / "recipe.py"
    spec = importlib.util.spec_from_file_location("docs_recipe", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.PAGE.read_text("utf-8") == script.page(), "run `make docs`"


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "adr").glob("*.md")), ids=lambda p: p.stem)
def test_decisions_are_one_page(path):
    text = path.read_text("utf-8")
    assert text.startswith(f"# {path.stem[:4]} ")
    assert "Status: " in text
    assert len(text.split()) <= 500


def test_decisions_are_numbered_without_gaps():
    numbers = [int(path.name[:4]) for path in sorted((ROOT / "docs" / "adr").glob("*.md"))]
    assert numbers == list(range(1, len(numbers) + 1))
