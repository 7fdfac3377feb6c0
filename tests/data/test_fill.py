"""Placeholders in rows."""

from __future__ import annotations

import json

from tunesmith.data import fill
from tunesmith.data.json_rows import Row
from tunesmith.recipe.sections import Source


def test_every_spelling_is_filled_wherever_it_stands():
    value = {"a": "<NAME> by {{author}}", "b": [{"c": "{{NAME}}"}, 5, None], "d": "<name>"}
    filled = fill.filled(Row(value, "f", 1), {"name": "Ada", "author": "us"})
    assert filled.value == {"a": "Ada by us", "b": [{"c": "Ada"}, 5, None], "d": "<name>"}
    assert fill.filled(Row("I am <NAME>", "f", 1), {"name": "Ada"}).value == "I am Ada"


def test_what_nothing_fills_is_said(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"instruction": "who?", "output": "<NAME> of {{author}}"}))
    note = fill.unfilled(Source(str(path)), "alpaca")
    assert "<NAME>, {{author}}" in note
    assert "fill: {name" in note
    some = fill.unfilled(Source(str(path), fill={"name": "Ada"}), "alpaca")
    assert "{{author}}" in some
    assert "<NAME>" not in some
    every = Source(str(path), fill={"name": "Ada", "author": "us"})
    assert fill.unfilled(every, "alpaca") == ""
