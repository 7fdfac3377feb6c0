"""Conversations as lists of {role, content}: OpenAI's chat format and its common extensions.

Understood beside plain content: typed content parts, `tool_calls`, `reasoning_content`, tools as a
list or as JSON text, and a `weight` per message (0 keeps an answer out of the loss).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.data.formats import base
from tunesmith.data.json_rows import Row
from tunesmith.recipe.sections import DataConfig
from tunesmith.types import Conversation, Message, Part, Role, Text, Thinking, ToolCall

ROLES = {
    "messages": ("messages", "conversations", "conversation"),
    "tools": ("tools", "functions"),
    "system": ("system", "system_prompt"),
}
SAMPLE = Conversation
WHOLE_FILES = False
SPEAKERS: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
MEDIA = ("image", "images", "video", "videos", "audio", "audios", "image_url", "input_audio")


def detect(rows: Sequence[Row]) -> bool:
    """A list of messages with `role`, without `chosen` or a verdict."""
    return base.most(rows, lambda v: looks_like(v) and not {"chosen", "label", "kto_tag"} & set(v))


def looks_like(value: Mapping[str, Any]) -> bool:
    """Whether there is a list of {role: …}."""
    name = base.column(ROLES, value, "messages")
    turns = value[name] if name else None
    return bool(isinstance(turns, list) and turns and is_message(turns[0]))


def is_message(value: Any) -> bool:
    return isinstance(value, dict) and "role" in value


def parse(row: Row, columns: base.Columns, config: DataConfig) -> Conversation:
    """A conversation, its weights and tools.

    Raises:
        DataError: D121, D122, D123; D124, images, sound or video.
    """
    value = base.row_object(row)
    no_media(row, value)
    name = base.column(ROLES, value, "messages", columns)
    if name is None:
        base.missing(row, columns.get("messages") or "messages")
    found = messages(row, value[name], name)
    return with_tools_and_system(row, found, columns, ROLES)


def with_tools_and_system(
    row: Row,
    found: tuple[Message, ...],
    columns: base.Columns,
    roles: Mapping[str, tuple[str, ...]],
) -> Conversation:
    """Joins what stands in columns beside the messages."""
    value = base.row_object(row)
    at = {role: base.column(roles, value, role, columns) for role in ("system", "tools")}
    system = base.optional_text(row, value.get(at["system"] or ""), "system")
    if system and not any(message.role == "system" for message in found):
        found = (Message.of("system", system), *found)
    return Conversation(found, tools(row, value.get(at["tools"] or "")))


def no_media(row: Row, value: Mapping[str, Any]) -> None:
    """Raises D124 if the row has images, sound or video."""
    if media := [name for name in MEDIA if value.get(name)]:
        base.bad(row, "D124", f"the row has `{media[0]}`; only text can be trained")


def messages(row: Row, value: Any, name: str) -> tuple[Message, ...]:
    """The messages of a list.

    Raises:
        DataError: D122, D123, D124.
    """
    if not isinstance(value, list):
        base.bad(row, "D123", f"`{name}` is {base.kind(value)}, not a list of messages")
    if not value:
        base.bad(row, "D122", f"`{name}` is empty")
    return tuple(_message(row, turn, f"{name}[{i}]") for i, turn in enumerate(value))


def _message(row: Row, turn: Any, name: str) -> Message:
    if not isinstance(turn, dict) or "role" not in turn:
        base.bad(row, "D123", f"`{name}` is no message: it has no `role`")
    role = SPEAKERS.get(turn["role"]) if isinstance(turn["role"], str) else None
    if role is None:
        what = f"`{name}` has the unknown role `{turn['role']}`"
        base.bad(row, "D123", what, f"known: {', '.join(SPEAKERS)}")
    parts: list[Part] = []
    # Null is absent: columns of tables have every key that any of their rows has.
    reasoning = turn.get("reasoning_content") or turn.get("thinking")
    if reasoning:
        parts.append(Thinking(base.text(row, reasoning, f"{name}.reasoning_content")))
    parts += _content(row, turn.get("content"), name)
    older = [turn["function_call"]] if turn.get("function_call") else None  # before tool_calls
    parts += tool_calls(row, turn.get("tool_calls") or older, name)
    if not any(not isinstance(part, Text) or part.text for part in parts) and role != "system":
        base.bad(row, "D122", f"`{name}` is empty")
    weight = turn["weight"] if turn.get("weight") is not None else turn.get("loss_weight")
    if weight is not None and (isinstance(weight, bool) or not isinstance(weight, int | float)):
        base.bad(row, "D122", f"`{name}.weight` is {base.kind(weight)}, not a number")
    if weight is not None and weight < 0:
        base.bad(row, "D122", f"`{name}.weight` is negative")
    answered = (turn.get(key) for key in ("name", "tool_call_id"))
    names = ("" if found is None else str(found) for found in answered)
    return Message(role, tuple(parts), None if weight is None else float(weight), *names)


def _content(row: Row, content: Any, name: str) -> list[Part]:
    if content is None:
        return []
    if isinstance(content, str):
        return [Text(content)]
    if not isinstance(content, list):
        base.bad(row, "D122", f"`{name}.content` is {base.kind(content)}, not text")
    return [part for item in content for part in _part(row, item, name)]


def _part(row: Row, item: Any, name: str) -> list[Part]:
    if isinstance(item, str):
        return [Text(item)]
    if not isinstance(item, dict):
        base.bad(row, "D122", f"`{name}.content` holds {base.kind(item)}")
    sort = item.get("type", "text")
    value = item.get("value", item.get(sort, item.get("text")))
    if sort == "text":
        return [Text(base.text(row, value, f"{name}.content", empty=True))]
    if sort in ("reasoning", "thinking"):
        return [Thinking(base.text(row, value, f"{name}.content", empty=True))]
    if sort == "tool_call":
        return tool_calls(row, [from_json(row, value, f"{name}.content")], name)
    code = "D124" if sort in MEDIA else "D122"
    base.bad(row, code, f"`{name}.content` has a part of type `{sort}`; only text can be trained")


def tool_calls(row: Row, value: Any, name: str) -> list[Part]:
    """Calls as OpenAI writes them (`function: {name, arguments}`) or bare (`name, arguments`)."""
    if not value:
        return []
    if not isinstance(value, list):
        base.bad(row, "D123", f"`{name}.tool_calls` is {base.kind(value)}, not a list")
    calls: list[Part] = []
    for call in value:
        inner = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
            base.bad(row, "D123", f"`{name}` has a tool call without a name")
        arguments = inner.get("arguments", inner.get("parameters", {}))
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        calls.append(ToolCall(inner["name"], arguments, str(call.get("id", ""))))
    return calls


def tools(row: Row, value: Any) -> tuple[Mapping[str, Any], ...]:
    """Tool descriptions as a list of objects or as JSON text; null and "" are none."""
    if isinstance(value, str) and value.strip():
        value = from_json(row, value, "tools")
    if not value:
        return ()
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        base.bad(row, "D123", "`tools` is no list of objects")
    return tuple(value)


def from_json(row: Row, value: Any, name: str) -> Any:
    """JSON that stands as text in a JSON field.

    Raises:
        DataError: D123, it is no JSON.
    """
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        base.bad(row, "D123", f"`{name}` is not JSON: `{value[:30]}`")
