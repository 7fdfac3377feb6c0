"""Alpaca rows: instruction, input, output, and perhaps history and system.

History is read both ways it is found in the wild: a flat list of alternating turns
(`["u1", "a1", …]`) and a list of pairs (`[["u1", "a1"], …]`).
An instruction that is a conversation, `Human: … Assistant: … Human: … Assistant:` (BELLE), is
read as one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.data.formats import _transcript, base
from tunesmith.data.json_rows import Row
from tunesmith.recipe.sections import DataConfig
from tunesmith.types import Conversation, Message

ROLES = {
    "instruction": ("instruction",),
    "input": ("input",),
    "output": ("output", "response"),
    "history": ("history",),
    "system": ("system", "system_prompt"),
}
SAMPLE = Conversation
WHOLE_FILES = False


def detect(rows: Sequence[Row]) -> bool:
    """`instruction` and one `output`, without a verdict on it."""
    return base.most(rows, lambda v: looks_like(v) and not has_verdict(v))


def looks_like(value: Mapping[str, Any]) -> bool:
    """Whether there is an instruction and one answer."""
    output = base.column(ROLES, value, "output")
    return "instruction" in value and output is not None and isinstance(value[output], str)


def has_verdict(value: Mapping[str, Any]) -> bool:
    """Whether the answer is judged: then the row is feedback. Other labels are just columns."""
    return "kto_tag" in value or isinstance(value.get("label"), bool)


def parse(row: Row, columns: base.Columns, config: DataConfig) -> Conversation:
    """A conversation that ends in `output`.

    Raises:
        DataError: D121, D122, D123.
    """
    messages = prompt(row, columns, config)
    name = column_name(row, columns, "output")
    output = base.text(row, base.row_object(row)[name], name)
    return Conversation((*messages, Message.of("assistant", output)))


def prompt(row: Row, columns: base.Columns, config: DataConfig) -> tuple[Message, ...]:
    """System, history and the last question."""
    value = base.row_object(row)
    name = column_name(row, columns, "instruction")
    instruction = base.text(row, value[name], name, empty=True)
    extra = base.optional_text(row, _value(value, columns, "input"), "input")
    question = f"{instruction}{config.input_joiner}{extra}" if instruction and extra else ""
    question = question or instruction or extra
    if not question.strip():
        base.bad(row, "D122", f"`{name}` is empty")
    system = base.optional_text(row, _value(value, columns, "system"), "system")
    head = (Message.of("system", system),) if system else ()
    past = history(row, _value(value, columns, "history"))
    if not extra and _transcript.is_belle(instruction):
        return (*head, *past, *_transcript.belle(row, instruction, name))
    return (*head, *past, Message.of("user", question))


def history(row: Row, value: Any) -> tuple[Message, ...]:
    """Earlier turns, from a flat list or a list of pairs; null and [] are none.

    Raises:
        DataError: D123, turns that don't alternate user and assistant.
    """
    if value is None or value == "" or value == []:
        return ()
    if not isinstance(value, list):
        base.bad(row, "D123", f"`history` is {base.kind(value)}, not a list")
    if all(isinstance(turn, str) for turn in value):
        if len(value) % 2:
            base.bad(row, "D123", f"`history` has {len(value)} turns: an answer is missing")
        turns = value
    elif all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        turns = [turn for pair in value for turn in pair]
    else:
        base.bad(row, "D123", "`history` is neither a flat list of texts nor a list of pairs")
    return tuple(
        Message.of("assistant" if i % 2 else "user", base.text(row, turn, f"history[{i}]"))
        for i, turn in enumerate(turns)
    )


def column_name(row: Row, columns: base.Columns, role: str) -> str:
    """The column of a role that a row must have.

    Raises:
        DataError: D121, it has not.
    """
    value = base.row_object(row)
    name = base.column(ROLES, value, role, columns)
    if name is None:
        base.missing(row, columns.get(role) or role)
    return name


def _value(value: Mapping[str, Any], columns: base.Columns, role: str) -> Any:
    name = base.column(ROLES, value, role, columns)
    return None if name is None else value[name]
