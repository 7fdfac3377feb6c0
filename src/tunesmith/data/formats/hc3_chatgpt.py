"""HC3 rows with the ChatGPT's answers: a conversation for each."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.data.formats import _hc3, base
from tunesmith.data.json_rows import Row
from tunesmith.recipe.sections import DataConfig
from tunesmith.types import Conversation

ROLES = {"question": ("question",), _hc3.CHATGPT: (_hc3.CHATGPT,)}
SAMPLE = Conversation
WHOLE_FILES = False


def detect(rows: Sequence[Row]) -> bool:
    """HC3's columns; which side is trained has to be said by `format:`."""
    return _hc3.fits(rows)


def parse(row: Row, columns: base.Columns, config: DataConfig) -> tuple[Conversation, ...]:
    """A conversation for each answer.

    Raises:
        DataError: D121, D122.
    """
    return _hc3.conversations(row, columns, _hc3.CHATGPT)
