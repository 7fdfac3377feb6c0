"""Conversations with a verdict: `label` true (desirable) or false, beside messages or a pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.data.formats import base, openai, prompt_completion, sharegpt
from tunesmith.data.json_rows import Row
from tunesmith.recipe.sections import DataConfig
from tunesmith.types import Feedback

ROLES = {"label": ("label", "kto_tag"), **openai.ROLES, **prompt_completion.ROLES}
SAMPLE = Feedback
WHOLE_FILES = False


def detect(rows: Sequence[Row]) -> bool:
    """A `label` beside something that is a conversation."""
    return base.most(
        rows, lambda v: bool(base.column(ROLES, v, "label")) and _reader(v) is not None
    )


def _reader(value: Mapping[str, Any]) -> Any:
    if openai.looks_like(value):
        return openai
    if sharegpt.looks_like(value):
        return sharegpt
    pair = {"prompt", "completion"}
    return prompt_completion if pair <= set(value) else None


def parse(row: Row, columns: base.Columns, config: DataConfig) -> Feedback:
    """A conversation and whether its last answer is desirable.

    Raises:
        DataError: D121 to D124.
    """
    row = base.renamed(row, columns) if columns else row
    value = base.row_object(row)
    name = base.column(ROLES, value, "label")
    if name is None:
        base.missing(row, "label")
    if not isinstance(value[name], bool):
        base.bad(row, "D122", f"`{name}` is {base.kind(value[name])}, not true or false")
    reader = _reader(value)
    if reader is None:
        base.missing(row, "messages")
    return Feedback(reader.parse(row, {}, config), value[name])
