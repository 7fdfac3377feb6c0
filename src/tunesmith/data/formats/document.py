"""Plain text for pretraining: a whole .txt or .md file is one document. Never detected: say it."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.data.formats import base
from tunesmith.data.json_rows import Row
from tunesmith.recipe.sections import DataConfig
from tunesmith.types import Document

ROLES: dict[str, tuple[str, ...]] = {}
SAMPLE = Document
WHOLE_FILES = True


def detect(rows: Sequence[Row]) -> bool:
    """Never: that a file is one document can't be seen from its lines."""
    return False


def parse(row: Row, columns: base.Columns, config: DataConfig) -> Document:
    """The file's text.

    Raises:
        DataError: D122, the file is no plain text.
    """
    if not isinstance(row.value, str):
        base.bad(row, "D122", "not a plain-text file", "use format: text and its column")
    return Document(row.value)
