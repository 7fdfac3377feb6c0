"""Pairs of a better and a worse answer, in every layout they are found in.

prompt, chosen, rejected             texts, or lists of messages
chosen, rejected                     whole conversations; what they share is the prompt
conversations, chosen, rejected      ShareGPT's turns
chosen_messages, rejected_messages   whole conversations
question, response_j, response_k     a question and two answer columns
instruction, input, output: [a, b]   Alpaca's; the first is the better, a third is not used
margin                               beside any of them: by how much the better one is better
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.data.formats import _tags, _transcript, alpaca, base, openai, sharegpt
from tunesmith.data.json_rows import Row
from tunesmith.recipe.sections import DataConfig
from tunesmith.types import Conversation, Message, Preference

ROLES = {
    "prompt": ("prompt", "question", "query", "messages", "conversations", "instruction"),
    "instruction": ("instruction",),
    "chosen": ("chosen", "chosen_messages", "chosen_response", "answer_chosen", "response_j"),
    "rejected": (
        "rejected",
        "rejected_messages",
        "rejected_response",
        "answer_rejected",
        "response_k",
    ),
    "input": ("input",),
    "output": ("output",),
    "history": ("history",),
    "system": ("system", "system_prompt"),
    "tools": ("tools",),
    "margin": ("margin",),
    **_tags.ROLES,
}
SAMPLE = Preference
WHOLE_FILES = False


def detect(rows: Sequence[Row]) -> bool:
    """`chosen` and `rejected`, or an Alpaca row with a list of outputs."""
    return base.most(rows, lambda v: _has_pair(v) or _has_outputs(v))


def _has_pair(value: Mapping[str, Any]) -> bool:
    return all(base.column(ROLES, value, role) for role in ("chosen", "rejected"))


def _has_outputs(value: Mapping[str, Any]) -> bool:
    return "instruction" in value and isinstance(value.get("output"), list)


def parse(row: Row, columns: base.Columns, config: DataConfig) -> Preference:
    """A prompt and two continuations, the better first.

    Raises:
        DataError: D121, D122, D123; D124, images, sound or video.
    """
    row = base.renamed(row, columns) if columns else row
    value = base.row_object(row)
    openai.no_media(row, value)
    if not _has_pair(value):
        if "output" not in value:
            base.missing(row, "rejected" if base.column(ROLES, value, "chosen") else "chosen")
        return _alpaca(row, value["output"], config)
    names = [base.column(ROLES, value, role) or role for role in ("chosen", "rejected")]
    given = _prompt(row, value, config)
    chosen, rejected = (_answers(row, value[name], name, not given) for name in names)
    messages, chosen, rejected = _split(row, given, chosen, rejected)
    at = base.column(ROLES, value, "system")
    system = base.optional_text(row, value[at] if at else None, "system")
    if system and not any(message.role == "system" for message in messages):
        messages = (Message.of("system", system), *messages)
    tools = openai.tools(row, value.get("tools"))
    return Preference(Conversation(messages, tools), chosen, rejected, _margin(row, value))


def _alpaca(row: Row, outputs: Any, config: DataConfig) -> Preference:
    messages = alpaca.prompt(row, {}, config)
    if not isinstance(outputs, list) or len(outputs) < 2:
        base.bad(row, "D122", "`output` is no list of two answers: chosen, rejected")
    chosen, rejected = (base.text(row, outputs[i], f"output[{i}]") for i in (0, 1))
    sides = [(Message.of("assistant", text),) for text in (chosen, rejected)]
    margin = _margin(row, base.row_object(row))
    return Preference(Conversation(messages), sides[0], sides[1], margin)


def _margin(row: Row, value: Mapping[str, Any]) -> float:
    """The number in the column `margin`; 0 where there is none."""
    name = base.column(ROLES, value, "margin")
    found = value[name] if name else None
    if found is None or found == "":
        return 0.0
    if isinstance(found, str):  # CSV and TSV know only text
        try:
            found = float(found)
        except ValueError:
            base.bad(row, "D122", f"`{name}` is {found!r}, not a number")
    if isinstance(found, bool) or not isinstance(found, int | float):
        base.bad(row, "D122", f"`{name}` is {base.kind(found)}, not a number")
    if not 0 <= found < math.inf:
        base.bad(row, "D122", f"`{name}` is {found}, not a number from 0 up")
    return float(found)


def _prompt(row: Row, value: Mapping[str, Any], config: DataConfig) -> tuple[Message, ...]:
    """The prompt where it stands in a column of its own; else empty."""
    if "instruction" in value:
        return alpaca.prompt(row, {}, config)
    name = base.column(ROLES, value, "prompt")
    if name is None:
        return ()
    past = alpaca.history(row, value.get("history"))
    if isinstance(value[name], list):
        return (*past, *_messages(row, value[name], name))
    text = base.text(row, value[name], name)
    if _transcript.HUMAN in text:
        asked = text.removesuffix(_transcript.ASSISTANT.rstrip()).rstrip()
        return _transcript.hh(row, asked, name)
    return (*past, Message.of("user", text))


def _answers(row: Row, value: Any, name: str, whole: bool) -> tuple[Message, ...]:
    if isinstance(value, str):
        text = base.text(row, value, name)
        if _transcript.HUMAN in text:
            return _transcript.hh(row, text, name)
        if whole:
            base.missing(row, "prompt")
        return (Message.of("assistant", text),)
    if isinstance(value, dict):
        value = [value]
    return _messages(row, value, name)


def _messages(row: Row, value: Any, name: str) -> tuple[Message, ...]:
    if isinstance(value, list) and value and sharegpt.is_turn(value[0]):
        return sharegpt.turns(row, value, name)
    return openai.messages(row, value, name)


def _split(
    row: Row, given: tuple[Message, ...], chosen: tuple[Message, ...], rejected: tuple[Message, ...]
) -> tuple[tuple[Message, ...], ...]:
    """(prompt, chosen, rejected): the prompt is what is given, or what both begin with."""
    if given and all(_without_system(side)[: len(given)] == given for side in (chosen, rejected)):
        given = ()  # the continuations repeat the prompt
    if given:
        return given, chosen, rejected
    shared = 0
    # Each side keeps a last message: two equal conversations are a pair with equal answers.
    for better, worse in zip(chosen[:-1], rejected[:-1], strict=False):
        if better != worse:
            break
        shared += 1
    if not shared:
        base.bad(row, "D123", "`chosen` and `rejected` share no prompt")
    return chosen[:shared], chosen[shared:], rejected[shared:]


def _without_system(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    return messages[1:] if messages and messages[0].role == "system" else messages
