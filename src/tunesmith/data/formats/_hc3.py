"""HC3 rows: a question with answers by people and answers by ChatGPT (arXiv:2301.07597)."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.data.formats import base
from tunesmith.data.json_rows import Row
from tunesmith.types import Conversation, Message

HUMAN, CHATGPT = "human_answers", "chatgpt_answers"


def fits(rows: Sequence[Row]) -> bool:
    """A question and both kinds of answers."""
    return base.most(rows, lambda v: "question" in v and HUMAN in v and CHATGPT in v)


def question(row: Row) -> Message:
    """The question of a row whose columns have their usual names.

    Raises:
        DataError: D121, D122.
    """
    value = base.row_object(row)
    if "question" not in value:
        base.missing(row, "question")
    return Message.of("user", base.text(row, value["question"], "question"))


def answers(row: Row, name: str) -> list[Message]:
    """The answers of one side that say something.

    Raises:
        DataError: D121, D122.
    """
    value = base.row_object(row)
    if name not in value:
        base.missing(row, name)
    texts = value[name]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        base.bad(row, "D122", f"`{name}` is no list of texts")
    return [Message.of("assistant", text.strip()) for text in texts if text.strip()]


def conversations(row: Row, columns: base.Columns, name: str) -> tuple[Conversation, ...]:
    """The question with each answer of one side; none if that side has no answer.

    Raises:
        DataError: D121, D122.
    """
    row = base.renamed(row, columns) if columns else row
    asked = question(row)
    return tuple(Conversation((asked, answer)) for answer in answers(row, name))
