"""docs/templates.md has a row for every shipped template, and says what its file says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.templates.every import FOLDER, PADDLE, STRINGS
from tests.templates.test_truncate import RULES
from tunesmith.templates import formats

PAGE = (Path(__file__).parents[2] / "docs" / "templates.md").read_text(encoding="utf-8")


def code(text: str) -> str:
    """Text as code in a cell of a table."""
    return f"`{text}`".replace("\n", "\\n").replace("|", "\\|")


def row(name: str) -> str:
    """The row of a format: name, aliases, variants, end of an answer, stop strings, models."""
    source = (FOLDER / f"{name}.toml").read_text(encoding="utf-8")
    format = formats.read(name, source)
    cells = (
        ", ".join(map(code, (name, *format.aliases))),
        ", ".join(f"`@{variant}`" for variant in formats.variants(source)),
        "EOS" if format.end == "eos" else code(format.end),
        ", ".join(map(code, format.stop_strings)),
        format.models,
    )
    return f"| {' | '.join(cells)} |"


@pytest.mark.parametrize("name", STRINGS)
def test_each_format_has_its_row(name):
    assert row(name) in PAGE.splitlines(), f"write this row into docs/templates.md:\n{row(name)}"


@pytest.mark.parametrize("name", PADDLE)
def test_each_chat_template_json_is_named(name):
    assert f"| `{name}` |" in PAGE


@pytest.mark.parametrize("rule", RULES)
def test_each_truncation_rule_is_explained(rule):
    assert f"| `{rule}` |" in PAGE
