"""Messages as transformers passes them to chat templates: plain data."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tunesmith.types import Message, Text, Thinking, ToolCall

_THOUGHT = "<think>\n{}\n</think>\n\n"


def as_dict(
    message: Message,
    hide: Callable[[str], str] = str,
    inline_thoughts: bool = False,
    text_arguments: bool = False,
) -> dict[str, Any]:
    """A message as transformers passes it to templates, control strings hidden by `hide`.

    Args:
        message: What was said.
        hide: Applied to every string.
        inline_thoughts: Write reasoning into the content, for templates that know none.
        text_arguments: Leave arguments of calls JSON text, for templates that join them to text.
    """
    parts = message.parts
    if len(parts) == 1 and type(parts[0]) is Text and not message.name and not message.tool_call_id:
        return {"role": message.role, "content": hide(parts[0].text)}  # nearly all messages
    thought = "".join(hide(part.text) for part in message.parts if isinstance(part, Thinking))
    content = "".join(hide(part.text) for part in message.parts if isinstance(part, Text))
    plain: dict[str, Any] = {"role": message.role, "content": content}
    if message.name:
        plain["name"] = hide(message.name)
    if message.tool_call_id:
        plain["tool_call_id"] = hide(message.tool_call_id)
    if thought and inline_thoughts:
        plain["content"] = _THOUGHT.format(thought) + content
    elif thought:
        plain |= {"reasoning_content": thought, "thinking": thought}
    calls = [part for part in message.parts if isinstance(part, ToolCall)]
    if calls:
        plain["tool_calls"] = [
            {
                "type": "function",
                "id": call.id,
                "function": {
                    "name": hide(call.name),
                    "arguments": _arguments(call, hide, text_arguments),
                },
            }
            for call in calls
        ]
    return plain


def _arguments(call: ToolCall, hide: Callable[[str], str], as_text: bool) -> Any:
    if as_text:
        return hide(call.arguments)
    try:
        found = json.loads(call.arguments)
    except ValueError:
        found = None
    return mapped(found if isinstance(found, dict) else call.arguments, hide)


def thought_of(plain: dict[str, Any]) -> tuple[str, str]:
    """Reasoning and answer, also of a message that carries its reasoning inside its text."""
    thought, text = plain.get("reasoning_content", ""), plain["content"]
    if not thought and text.lstrip().startswith("<think>") and "</think>" in text:
        thought, _, text = text.lstrip().removeprefix("<think>").partition("</think>")
    return thought.strip("\n"), text.strip()


def mapped(value: Any, change: Callable[[str], str]) -> Any:
    """Plain data with every string changed, keys too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {mapped(key, change): mapped(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [mapped(item, change) for item in value]
    return value
