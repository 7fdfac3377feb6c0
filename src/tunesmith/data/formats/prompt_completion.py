"""One question and its answer in two columns, by any of their usual names.

Both may be lists of equal length (`src`, `tgt`): the turns of one conversation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.data.formats import base
from tunesmith.data.json_rows import Row
from tunesmith.data.overlooked import Watched
from tunesmith.recipe.sections import DataConfig
from tunesmith.types import Conversation, Message

ROLES = {
    "prompt": ("prompt", "question", "query", "q", "src", "content", "input"),
    "completion": ("completion", "answer", "response", "a", "tgt", "summary", "target", "output"),
    "system": ("system", "system_prompt"),
}
SAMPLE = Conversation
WHOLE_FILES = False
PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("prompt", "answer"),
    ("question", "answer"),
    ("question", "response"),
    ("query", "response"),
    ("query", "answer"),
    ("q", "a"),
    ("src", "tgt"),
    ("content", "summary"),
    ("input", "target"),
    ("input", "output"),
)
OTHERS = {"instruction", "messages", "conversations", "chosen", "label", "kto_tag"}


def detect(rows: Sequence[Row]) -> bool:
    """One of the usual pairs of columns, and none of another format."""
    return base.most(rows, lambda v: _pair(v) is not None and not OTHERS & set(v))


def _pair(value: Mapping[str, Any]) -> tuple[str, str] | None:
    return next((pair for pair in PAIRS if set(pair) <= set(value)), None)


def parse(row: Row, columns: base.Columns, config: DataConfig) -> Conversation:
    """A conversation of one question and answer, or of as many as the lists hold.

    Raises:
        DataError: D121, D122, D123.
    """
    value = base.row_object(row)
    names = _names(value, columns)
    for name in names:
        if name not in value:
            base.missing(row, name)
    questions, answers = value[names[0]], value[names[1]]
    system = base.optional_text(row, _system(value, columns), "system")
    messages = [Message.of("system", system)] if system else []
    if isinstance(questions, list) and questions and isinstance(questions[0], dict):
        from tunesmith.data.formats import openai  # TRL's conversational prompt-completion

        past = openai.messages(row, questions, names[0])
        return Conversation((*messages, *past, *openai.messages(row, answers, names[1])))
    if isinstance(questions, str) and isinstance(answers, str):
        questions, answers = [questions], [answers]
    if not isinstance(questions, list) or not isinstance(answers, list):
        base.text(row, questions, names[0])
        base.text(row, answers, names[1])
        base.bad(row, "D123", f"`{names[0]}` and `{names[1]}` are not both text or both lists")
    if len(questions) != len(answers) or not questions:
        counts = f"{len(questions)} and {len(answers)}"
        base.bad(row, "D123", f"`{names[0]}` and `{names[1]}` have {counts} turns")
    for question, answer in zip(questions, answers, strict=True):
        messages.append(Message.of("user", base.text(row, question, names[0])))
        messages.append(Message.of("assistant", base.text(row, answer, names[1])))
    return Conversation(tuple(messages))


def _names(value: Mapping[str, Any], columns: base.Columns) -> tuple[str, str]:
    """Question and answer: a usual pair, or what the user named and what else is there."""
    if not {"prompt", "completion"} & set(columns):
        return _pair(value) or ("prompt", "completion")
    found = [
        base.column(ROLES, value, role, columns) or columns.get(role) or role
        for role in ("prompt", "completion")
    ]
    return found[0], found[1]


def _system(value: dict[str, Any], columns: base.Columns) -> Any:
    name = base.column(ROLES, value, "system", columns)
    if name is not None:
        return value[name]
    if "system" in columns:
        return None
    # PaddleNLP: template variables, `system` among them. A text there means something else, and is
    # told as a column that is not used: to look is not to read.
    context = dict.get(value, "context")
    if not isinstance(context, dict) or not context.get("system"):
        return None
    if isinstance(value, Watched):
        value.read_within("context", ("system",))
    return context["system"]
