"""Conversations as lists of {from, value}: ShareGPT's format, with function calls and tools.

Other keys and speakers are named by roles: columns: {role_tag: speaker, user_tag: Customer, …}.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.data.formats import _tags, base, openai
from tunesmith.data.json_rows import Row
from tunesmith.recipe.sections import DataConfig
from tunesmith.types import Conversation, Message, Role

ROLES = {
    "messages": ("conversations", "conversation", "messages"),
    "tools": ("tools", "functions"),
    "system": ("system", "system_prompt"),
    **_tags.ROLES,
}
SAMPLE = Conversation
WHOLE_FILES = False
SPEAKERS: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "assistant": "assistant",
    "system": "system",
    "observation": "tool",
    "tool": "tool",
    "function": "tool",
}
CALLS = ("function_call", "tool_call")


def detect(rows: Sequence[Row]) -> bool:
    """A list of turns with `from`, without `chosen` or a verdict."""
    return base.most(rows, lambda v: looks_like(v) and not {"chosen", "label", "kto_tag"} & set(v))


def looks_like(value: Mapping[str, Any]) -> bool:
    """Whether there is a list of {from: …}."""
    name = base.column(ROLES, value, "messages")
    turns = value[name] if name else None
    return bool(isinstance(turns, list) and turns and is_turn(turns[0]))


def is_turn(value: Any) -> bool:
    return isinstance(value, dict) and "from" in value


def parse(row: Row, columns: base.Columns, config: DataConfig) -> Conversation:
    """A conversation and its tools.

    Raises:
        DataError: D121, D122, D123; D124, images, sound or video.
    """
    if set(columns) & set(_tags.NAMES):
        row, columns = base.renamed(row, columns), {}
    value = base.row_object(row)
    openai.no_media(row, value)
    name = base.column(ROLES, value, "messages", columns)
    if name is None:
        base.missing(row, columns.get("messages") or "conversations")
    return openai.with_tools_and_system(row, turns(row, value[name], name), columns, ROLES)


def turns(row: Row, value: Any, name: str) -> tuple[Message, ...]:
    """The messages of a list of turns.

    Raises:
        DataError: D122, D123.
    """
    if not isinstance(value, list):
        base.bad(row, "D123", f"`{name}` is {base.kind(value)}, not a list of turns")
    if not value:
        base.bad(row, "D122", f"`{name}` is empty")
    return tuple(turn(row, item, f"{name}[{i}]") for i, item in enumerate(value))


def turn(row: Row, item: Any, name: str) -> Message:
    """One message from {from, value}."""
    if not isinstance(item, dict) or not isinstance(item.get("from"), str):
        base.bad(row, "D123", f"`{name}` is no turn: it has no `from`")
    speaker = item["from"]
    if speaker in CALLS:
        found = openai.from_json(row, item.get("value"), f"{name}.value")
        calls = openai.tool_calls(row, found if isinstance(found, list) else [found], name)
        return Message("assistant", tuple(calls))
    if speaker not in SPEAKERS:
        known = ", ".join((*SPEAKERS, *CALLS))
        base.bad(
            row, "D123", f"`{name}` is from the unknown speaker `{speaker}`", f"known: {known}"
        )
    role = SPEAKERS[speaker]
    value = base.text(row, item.get("value"), f"{name}.value", empty=role == "system")
    return Message.of(role, value)
