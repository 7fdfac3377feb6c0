"""Plain text for pretraining: one line of a .txt file, or the column `text`, is one document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.data.formats import _unknown, base
from tunesmith.data.json_rows import Row
from tunesmith.recipe.sections import DataConfig
from tunesmith.types import Document

ROLES = {"text": ("text", "content", "raw_content", "paragraphs", "completion")}
SAMPLE = Document
WHOLE_FILES = False
OTHERS = {"messages", "conversations", "instruction", "prompt", "summary", "chosen", "parent_id"}


def detect(rows: Sequence[Row]) -> bool:
    """Lines of text, or a text column without those of a conversation."""
    if all(isinstance(row.value, str) for row in rows):
        return True
    return base.most(rows, lambda v: _has_text(v) and not OTHERS & set(v))


def _has_text(value: Mapping[str, Any]) -> bool:
    """A column of text, or of a list whose first is text."""
    name = base.column(ROLES, value, "text")
    held = value[name] if name else None
    if name is None or (isinstance(held, list) and held and not isinstance(held[0], str)):
        return False
    # Beside `promt` a completion is no document: half of the pair would go untrained.
    others = [key for key, v in value.items() if key != name and isinstance(v, str)]
    return name != "completion" or not any(_unknown.alike(o, _unknown.QUESTIONS) for o in others)


def parse(row: Row, columns: base.Columns, config: DataConfig) -> Document:
    """A document; a list of strings is joined by newlines.

    Raises:
        DataError: D121, D122.
    """
    if isinstance(row.value, str):
        return Document(row.value)
    name = base.column(ROLES, row.value, "text", columns)
    if name is None:
        base.missing(row, columns.get("text") or "text")
    value = row.value[name]
    if isinstance(value, list) and value and all(isinstance(v, str) for v in value):
        value = "\n".join(value)
    return Document(base.text(row, value, name))
