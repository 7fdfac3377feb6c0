"""What rows of plain texts can say of a conversation: questions and answers by turns."""

from __future__ import annotations

from typing import Any

from tunesmith.errors import DataError
from tunesmith.types import Conversation, Message, Text, Thinking, ToolCall

Row = dict[str, Any]

IDS = "ids of tool calls"
NAMES = "names of speakers"
WEIGHT = "a message's weight"
REASONING = "reasoning"
BESIDE_CALLS = "a message of text and tool calls"
"""What refusals call the things that many formats have no place for."""


def exchanges(conversation: Conversation) -> tuple[str, list[tuple[str, str]]]:
    """The system prompt, and questions with their answers."""
    if conversation.tools:
        raise no_place("tools")
    messages = conversation.messages
    system = ""
    if messages and messages[0].role == "system":
        system, messages = plain(messages[0]), messages[1:]
    roles = [message.role for message in messages]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        raise no_place("turns that don't alternate user and assistant")
    texts = [plain(message) for message in messages]
    if not all(text.strip() for text in texts):
        raise no_place("an empty message")
    return system, list(zip(texts[::2], texts[1::2], strict=True))


def plain(message: Message) -> str:
    """The text of a message that is nothing but text."""
    for part in message.parts:
        if not isinstance(part, Text):
            raise no_place(REASONING if isinstance(part, Thinking) else "tool calls")
    check_bare(message)
    return message.text


def check_bare(message: Message) -> None:
    """Refuses what stands beside the parts of a message.

    Raises:
        DataError: D128.
    """
    calls = [part for part in message.parts if isinstance(part, ToolCall)]
    for what, found in (
        (WEIGHT, message.weight is not None),
        (IDS, message.tool_call_id or any(call.id for call in calls)),
        (NAMES, message.name),
    ):
        if found:
            raise no_place(what)


def no_place(what: str) -> DataError:
    fix = "choose another format (openai has a place for all of a conversation); or --skip-bad"
    if what in (IDS, NAMES, WEIGHT, REASONING, BESIDE_CALLS):
        fix = f"{fix} to leave such rows out, --lossy to drop it and count the rows"
    else:
        fix = f"{fix} to leave such rows out"
    return DataError("D128", f"the format has no place for {what}", fix=fix)
