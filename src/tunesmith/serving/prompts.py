"""From the messages of a request to the ids that the model was trained to continue."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from tunesmith.errors import DataError
from tunesmith.serving import faults
from tunesmith.serving.faults import Refusal
from tunesmith.serving.schema import ChatMessage, Tool
from tunesmith.types import Conversation, Message, Part, Role, Text, Thinking, ToolCall

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}


def conversation(
    messages: Sequence[ChatMessage], tools: Sequence[Tool] | None, *, param: str = "messages"
) -> Conversation:
    """A conversation in the house's words.

    Raises:
        Refusal: S111, a message says nothing; S124, a field that no template can show.
    """
    found = [_message(message, f"{param}[{at}]") for at, message in enumerate(messages)]
    told = tuple(described(tool) for tool in tools or ())
    return Conversation(tuple(found), told)


def described(tool: Tool) -> dict[str, Any]:
    """A tool as templates are given it: absent fields stay absent, and `strict` is for us."""
    return tool.model_dump(exclude_none=True, exclude={"function": {"strict"}})


def prompt_ids(template: Any, talk: Conversation, system: str | None) -> list[int]:
    """Ids of the prompt; where a template insists on what OpenAI lets tools leave out, tools have
    it, empty. Templates that don't are given the tools as they are.

    Raises:
        DataError: D302, the template refuses the messages.
        Refusal: S111, it refuses the tools.
    """
    try:
        return template.prompt_ids(talk, system=system)
    except DataError as error:
        if not talk.tools:
            raise
        with suppress(DataError):
            filled = tuple(_filled(tool) for tool in talk.tools)
            return template.prompt_ids(replace(talk, tools=filled), system=system)
        template.prompt_ids(replace(talk, tools=()), system=system)  # or it is the messages
        raise faults.of_error(error, "tools") from None


def _filled(tool: Any) -> dict[str, Any]:
    """A tool with a description, and parameters that have one each."""
    function = {"description": "", "parameters": {"type": "object"}, **tool["function"]}
    parameters = {"properties": {}, **function["parameters"]}
    named = parameters["properties"]
    if isinstance(named, dict):
        parameters["properties"] = {
            name: {"description": "", **value} if isinstance(value, dict) else value
            for name, value in named.items()
        }
    return {**tool, "function": {**function, "parameters": parameters}}


def size(messages: Sequence[ChatMessage], tools: Sequence[Tool] | None) -> int:
    """Characters a conversation has at least."""
    total = 0
    for message in messages:
        content = message.content
        total += len(content) if isinstance(content, str) else 0
        total += sum(len(part.text) for part in content) if isinstance(content, list) else 0
    return total


def _message(message: ChatMessage, at: str) -> Message:
    if message.name is not None and message.role != "tool":
        raise Refusal("S124", f"`{at}.name` is not supported", f"{at}.name", fix="leave it out")
    parts: list[Part] = []
    if message.reasoning_content:
        _only("assistant", message, at, "reasoning_content")
        parts.append(Thinking(message.reasoning_content))
    if isinstance(message.content, str):
        parts.append(Text(message.content))
    elif message.content is not None:
        parts += [Text(part.text) for part in message.content]
    for call in message.tool_calls or ():
        _only("assistant", message, at, "tool_calls")
        _arguments(call.function.arguments, f"{at}.tool_calls")
        parts.append(ToolCall(call.function.name, call.function.arguments, call.id))
    if message.tool_call_id is not None:
        _only("tool", message, at, "tool_call_id")
    if not parts:
        raise Refusal("S111", f"`{at}.content` is missing", f"{at}.content")
    return Message(
        _ROLES[message.role],
        tuple(parts),
        name=message.name or "",
        tool_call_id=message.tool_call_id or "",
    )


def _only(role: str, message: ChatMessage, at: str, field: str) -> None:
    if message.role != role:
        what = f"`{at}.{field}` belongs to messages of the role `{role}`"
        raise Refusal("S111", what, f"{at}.{field}")


def _arguments(text: str, at: str) -> None:
    """Templates put arguments into the prompt as an object."""
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise Refusal("S111", f"`{at}`: arguments are no JSON object", at)
