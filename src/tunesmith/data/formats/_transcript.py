"""Conversations written as one text: Anthropic's HH layout, and BELLE's in an instruction."""

from __future__ import annotations

import re

from tunesmith.data.formats import base
from tunesmith.data.json_rows import Row
from tunesmith.types import Message, Role

HUMAN, ASSISTANT = "\n\nHuman: ", "\n\nAssistant: "
_SPEAKERS: dict[str, Role] = {"Human": "user", "Assistant": "assistant"}
_MARK = re.compile(r"(?:\A|\n)\s*(Human|Assistant):")


def hh(row: Row, text: str, name: str) -> tuple[Message, ...]:
    """The turns of `\\n\\nHuman: …\\n\\nAssistant: …`, with their spaces as they are.

    Raises:
        DataError: D123, the text does not begin with a human.
    """
    head, *blocks = text.split(HUMAN)
    if head.strip():
        base.bad(row, "D123", f"`{name}` does not begin with `Human:`")
    messages: list[Message] = []
    for block in blocks:
        question, *answers = block.split(ASSISTANT)
        messages.append(Message.of("user", question))
        messages += [Message.of("assistant", answer) for answer in answers]
    return tuple(messages)


def is_belle(text: str) -> bool:
    """Whether a text is a conversation that waits for its last answer: it begins with `Human:` and
    ends with `Assistant:`."""
    text = text.strip()
    return text.startswith("Human:") and text.endswith("Assistant:")


def belle(row: Row, text: str, name: str) -> tuple[Message, ...]:
    """The turns of BELLE's multi-turn rows, up to the question that waits for its answer.

    Raises:
        DataError: D122, an empty turn; D123, the speakers don't alternate.
    """
    _, *pieces = _MARK.split(text.strip())
    speakers, texts = pieces[:-2:2], pieces[1:-2:2]  # the last piece is the open `Assistant:`
    messages = []
    for i, (speaker, said) in enumerate(zip(speakers, texts, strict=True)):
        if (speaker == "Assistant") != bool(i % 2):
            base.bad(row, "D123", f"`{name}`: `Human:` and `Assistant:` don't alternate")
        said = base.text(row, said.strip(), f"{name}: turn {i + 1}")
        messages.append(Message.of(_SPEAKERS[speaker], said))
    if len(messages) % 2 == 0:
        base.bad(row, "D123", f"`{name}`: `Human:` and `Assistant:` don't alternate")
    return tuple(messages)
