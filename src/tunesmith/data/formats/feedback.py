"""Conversations with a verdict: `label` true (desirable) or false, beside messages, a pair of
columns or an Alpaca row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.data.formats import alpaca, base, openai, prompt_completion, sharegpt
from tunesmith.data.json_rows import Row
from tunesmith.recipe.sections import DataConfig
from tunesmith.types import Feedback

ROLES = {
    "label": ("label", "kto_tag"),
    **alpaca.ROLES,
    **prompt_completion.ROLES,
    **openai.ROLES,
    **sharegpt.ROLES,
}
SAMPLE = Feedback
WHOLE_FILES = False
WORDS = {"true": True, "false": False}
"""Verdicts as a CSV file has them."""


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
    if alpaca.looks_like(value):
        return alpaca if alpaca.has_verdict(value) else None
    return prompt_completion if {"prompt", "completion"} <= set(value) else None


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
    verdict = value[name]
    if isinstance(verdict, str):
        verdict = WORDS.get(verdict.strip().lower(), verdict)
    if verdict in (0, 1):  # as pandas and many sets of the hub write it
        verdict = bool(verdict)
    if not isinstance(verdict, bool):
        base.bad(row, "D122", f"`{name}` is {base.kind(verdict)}, not true or false")
    reader = _reader(value | {name: verdict})
    if reader is None:
        base.missing(row, "messages")
    return Feedback(reader.parse(row, {}, config), verdict)
