"""Parsing one row in tests."""

from __future__ import annotations

from tunesmith.data.formats import base
from tunesmith.data.json_rows import Row
from tunesmith.recipe.sections import DataConfig

CONFIG = DataConfig()
QA = [("user", "hi"), ("assistant", "yo")]


def row(value, line=7):
    return Row(value, "f.jsonl", line)


def parse(value, columns=None, config=CONFIG, name=None):
    """A sample, in the format that is detected or named."""
    name = name or base.detect([row(value)], columns)
    return base.load(name).parse(row(value), columns or {}, config)


def said(sample):
    """(role, text) of each message."""
    messages = sample if isinstance(sample, tuple) else sample.messages
    return [(message.role, message.text) for message in messages]
