"""Samples to rows of a format that has no place for all they say: what is given up is named.

Only what a format can do without is dropped, one kind after the other, and only where it stands in
the way. What carries the meaning (turns, tool calls themselves) is refused as ever.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from tunesmith.data import convert, spoken
from tunesmith.errors import DataError
from tunesmith.types import (
    Conversation,
    Feedback,
    Message,
    Preference,
    Sample,
    Text,
    Thinking,
    ToolCall as Call,
)


def _without_ids(message: Message) -> Message:
    parts = tuple(
        dataclasses.replace(part, id="") if isinstance(part, Call) else part
        for part in message.parts
    )
    return dataclasses.replace(message, parts=parts, tool_call_id="")


def _without(kind: type) -> Callable[[Message], Message]:
    def change(message: Message) -> Message:
        parts = tuple(part for part in message.parts if not isinstance(part, kind))
        return dataclasses.replace(message, parts=parts)

    return change


def _calls_alone(message: Message) -> Message:
    return _without(Text)(message) if any(isinstance(p, Call) for p in message.parts) else message


GIVEN_UP: Mapping[str, Callable[[Message], Message]] = {
    spoken.IDS: _without_ids,
    spoken.NAMES: lambda message: dataclasses.replace(message, name=""),
    spoken.WEIGHT: lambda message: dataclasses.replace(message, weight=None),
    spoken.REASONING: _without(Thinking),
    spoken.BESIDE_CALLS: _calls_alone,
}
"""What can be dropped of messages, by what a refusal calls it."""


def rows(sample: Sample, target: str) -> tuple[list[spoken.Row], list[str]]:
    """The rows of a format, and what of the sample is not in them, by name.

    Raises:
        DataError: D128, the format has no place for something that can't be dropped.
    """
    lost: list[str] = []
    while True:
        try:
            return convert.rows(sample, target), lost
        except DataError as error:
            what = next((name for name in GIVEN_UP if error.what.endswith(f" {name}")), None)
            if what is None or what in lost:
                raise
            lost.append(what)
            sample = _changed(sample, GIVEN_UP[what])


def _changed(sample: Any, change: Callable[[Message], Message]) -> Any:
    """The sample with all of its messages changed."""
    if isinstance(sample, Conversation):
        return dataclasses.replace(sample, messages=tuple(map(change, sample.messages)))
    if isinstance(sample, Preference):
        prompt = _changed(sample.prompt, change)
        chosen, rejected = (tuple(map(change, side)) for side in (sample.chosen, sample.rejected))
        return dataclasses.replace(sample, prompt=prompt, chosen=chosen, rejected=rejected)
    if isinstance(sample, Feedback):
        return dataclasses.replace(sample, conversation=_changed(sample.conversation, change))
    return sample
