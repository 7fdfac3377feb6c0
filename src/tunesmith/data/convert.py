"""Samples back to rows: the inverse of the formats, for those that every sample can be said in.

What a format has no place for (tool calls in Alpaca, weights in ShareGPT) is refused, never dropped
silently. Law: a converted row, parsed again, is the sample it was made of.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from tunesmith.data import convert_lists, spoken
from tunesmith.types import (
    Conversation,
    Document,
    Feedback,
    Message,
    Preference,
    Sample,
    Text,
    Thinking,
    ToolCall,
)

Row = spoken.Row
SHAREGPT = {"user": "human", "assistant": "gpt", "system": "system", "tool": "observation"}


def targets() -> tuple[str, ...]:
    """Formats that can be written."""
    return tuple(WRITERS)


def rows(sample: Sample, target: str) -> list[Row]:
    """The rows of a format that say what a sample says.

    A pair gives its chosen side where a conversation is asked for, and two rows where verdicts are;
    a verdict gives a conversation if it is a good one, else no row. `said` tells so.

    Raises:
        DataError: D128, the format has no place for something in this sample.
    """
    wanted, make = WRITERS[target]
    return [make(one) for one in _adapted(sample, wanted)]


def said(source: type, target: str) -> str:
    """What changes when samples of one kind become another; empty if nothing is lost."""
    wanted = WRITERS[target][0]
    notes = {
        (Preference, Conversation): "chosen answers are kept, rejected ones and margins dropped",
        (
            Preference,
            Feedback,
        ): "each pair becomes two rows: chosen true, rejected false; margins are dropped",
        (Feedback, Conversation): "only rows with label true are kept",
    }
    return notes.get((source, wanted), "")


def _adapted(sample: Sample, wanted: type) -> list[Any]:
    if isinstance(sample, wanted):
        return [sample]
    if isinstance(sample, Preference) and wanted is Conversation:
        return [_whole(sample.prompt, sample.chosen)]
    if isinstance(sample, Preference) and wanted is Feedback:
        chosen, rejected = (_whole(sample.prompt, s) for s in (sample.chosen, sample.rejected))
        return [Feedback(chosen, True), Feedback(rejected, False)]
    if isinstance(sample, Feedback) and wanted is Conversation:
        return [sample.conversation] if sample.desirable else []
    have, want = type(sample).__name__.lower(), wanted.__name__.lower()
    raise spoken.no_place(f"a {have} is no {want}")


def _whole(prompt: Conversation, side: Sequence[Message]) -> Conversation:
    return Conversation((*prompt.messages, *side), prompt.tools)


# ---------------------------------------------------------------- conversations


def _openai(conversation: Conversation) -> Row:
    row: Row = {"messages": [_message(message) for message in conversation.messages]}
    if conversation.tools:
        row["tools"] = [dict(tool) for tool in conversation.tools]
    return row


def _message(message: Message) -> Row:
    says = any(isinstance(part, Text) for part in message.parts)
    row: Row = {"role": message.role, "content": message.text if says else None}
    thoughts = [part.text for part in message.parts if isinstance(part, Thinking)]
    if len(thoughts) > 1 or (thoughts and not isinstance(message.parts[0], Thinking)):
        raise spoken.no_place("reasoning that does not begin its message")
    if thoughts:
        row["reasoning_content"] = thoughts[0]
    if calls := [part for part in message.parts if isinstance(part, ToolCall)]:
        if any(isinstance(part, Text) for part in message.parts[-len(calls) :]):
            raise spoken.no_place("text after a tool call")
        row["tool_calls"] = [_call(call) for call in calls]
    beside = {"weight": message.weight, "name": message.name, "tool_call_id": message.tool_call_id}
    return {**row, **{key: value for key, value in beside.items() if value not in (None, "")}}


def _call(call: ToolCall) -> Row:
    row: Row = {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
    return {"id": call.id, **row} if call.id else row


def _sharegpt(conversation: Conversation) -> Row:
    row: Row = {"conversations": [_turn(message) for message in conversation.messages]}
    if conversation.tools:
        row["tools"] = json.dumps([dict(t) for t in conversation.tools], ensure_ascii=False)
    return row


def _turn(message: Message) -> Row:
    calls = [part for part in message.parts if isinstance(part, ToolCall)]
    if not calls:
        return {"from": SHAREGPT[message.role], "value": spoken.plain(message)}
    spoken.check_bare(message)
    if any(isinstance(part, Thinking) for part in message.parts):
        raise spoken.no_place(spoken.REASONING)
    if len(calls) != len(message.parts):
        raise spoken.no_place(spoken.BESIDE_CALLS)
    made = [{"name": call.name, "arguments": _object(call.arguments)} for call in calls]
    value = made[0] if len(made) == 1 else made
    return {"from": "function_call", "value": json.dumps(value, ensure_ascii=False)}


def _object(arguments: str) -> Any:
    """Arguments as an object where that writes the same text again, else the text."""
    try:
        value = json.loads(arguments)
    except ValueError:
        return arguments
    same = isinstance(value, dict) and json.dumps(value, ensure_ascii=False) == arguments
    return value if same else arguments


def _alpaca(conversation: Conversation) -> Row:
    system, turns = spoken.exchanges(conversation)
    *past, (question, answer) = turns
    row: Row = {"instruction": question, "input": "", "output": answer}
    if system:
        row["system"] = system
    return {**row, "history": [list(pair) for pair in past]} if past else row


def _prompt_completion(conversation: Conversation) -> Row:
    system, turns = spoken.exchanges(conversation)
    row: Row = dict(zip(("prompt", "completion"), turns[0], strict=True))
    if len(turns) > 1:
        row = {"prompt": [q for q, _ in turns], "completion": [a for _, a in turns]}
    return {**row, "system": system} if system else row


# ---------------------------------------------------------------- the others


def _preference(pair: Preference) -> Row:
    row: Row = {}
    before = pair.prompt.messages
    sides = (pair.chosen, pair.rejected)
    simple = [m for m in before if m.role != "system"]
    if (
        _is_text(simple, "user")
        and before[-1:] == (simple[0],)
        and len(before) <= 2
        and all(_is_text(side, "assistant") for side in sides)
    ):
        row = {"prompt": simple[0].text, "chosen": sides[0][0].text, "rejected": sides[1][0].text}
        if len(before) == 2:
            row["system"] = spoken.plain(before[0])
    else:
        names = ("prompt", "chosen", "rejected")
        parts = (before, *sides)
        row = {n: [_message(m) for m in part] for n, part in zip(names, parts, strict=True)}
    if pair.prompt.tools:
        row["tools"] = [dict(tool) for tool in pair.prompt.tools]
    if pair.margin:
        row["margin"] = pair.margin
    return row


def _is_text(messages: Sequence[Message], role: str) -> bool:
    if len(messages) != 1 or messages[0].role != role or messages[0].weight is not None:
        return False
    parts = messages[0].parts
    return all(isinstance(part, Text) for part in parts) and bool(messages[0].text.strip())


def _feedback(feedback: Feedback) -> Row:
    return {**_openai(feedback.conversation), "label": feedback.desirable}


def _text(document: Document) -> Row:
    return {"text": document.text}


WRITERS: dict[str, tuple[type, Callable[[Any], Row]]] = {
    "openai": (Conversation, _openai),
    "sharegpt": (Conversation, _sharegpt),
    "alpaca": (Conversation, _alpaca),
    "prompt_completion": (Conversation, _prompt_completion),
    "preference": (Preference, _preference),
    "feedback": (Feedback, _feedback),
    "text": (Document, _text),
    "ultrachat": (Conversation, convert_lists.ultrachat),
    "self_instruct": (Conversation, convert_lists.self_instruct),
    "oasst": (Conversation, convert_lists.oasst),
    "oasst_pairs": (Preference, convert_lists.oasst_pairs),
    "hc3_human": (Conversation, convert_lists.hc3_human),
    "hc3_chatgpt": (Conversation, convert_lists.hc3_chatgpt),
    "hc3_pairs": (Preference, convert_lists.hc3_pairs),
}
