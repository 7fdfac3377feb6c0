"""UltraChat's and LIMA's rows: a list of texts, question and answer by turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.data.formats import base
from tunesmith.data.json_rows import Row
from tunesmith.recipe.sections import DataConfig
from tunesmith.types import Conversation, Message

ROLES = {
    "turns": ("data", "conversations", "conversation", "dialog"),
    "system": ("system", "system_prompt"),
}
SAMPLE = Conversation
WHOLE_FILES = False


def detect(rows: Sequence[Row]) -> bool:
    """A list of texts where others have a list of messages."""
    return base.most(rows, _has_texts)


def _has_texts(value: Mapping[str, Any]) -> bool:
    name = base.column(ROLES, value, "turns")
    turns = value[name] if name else None
    return isinstance(turns, list) and bool(turns) and all(isinstance(t, str) for t in turns)


def parse(row: Row, columns: base.Columns, config: DataConfig) -> Conversation:
    """A conversation, perhaps with a last question that has no answer.

    Raises:
        DataError: D121, D122; D123, less than one question and answer.
    """
    value = base.row_object(row)
    name = base.column(ROLES, value, "turns", columns)
    if name is None:
        base.missing(row, columns.get("turns", "data"))
    turns = value[name]
    if not isinstance(turns, list):
        base.bad(row, "D123", f"`{name}` is {base.kind(turns)}, not a list of texts")
    if len(turns) < 2:
        base.bad(row, "D123", f"`{name}` has {len(turns)} turns: an answer is missing")
    at = base.column(ROLES, value, "system", columns)
    system = base.optional_text(row, value[at] if at else None, "system")
    messages = [Message.of("system", system)] if system else []
    for i, turn in enumerate(turns):
        role = "assistant" if i % 2 else "user"
        messages.append(Message.of(role, base.text(row, turn, f"{name}[{i}]")))
    return Conversation(tuple(messages))
