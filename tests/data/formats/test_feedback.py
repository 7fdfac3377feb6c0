"""Conversations with a verdict."""

from __future__ import annotations

import pytest

from tests.data.formats.parsing import parse
from tunesmith.errors import DataError
from tunesmith.types import (
    Conversation,
    Feedback,
    Message,
)


def u(text):
    return {"role": "user", "content": text}


def a(text):
    return {"role": "assistant", "content": text}


def test_feedback():
    sample = parse({"messages": [u("hi"), a("yo")], "label": False})
    assert sample == Feedback(
        Conversation((Message.of("user", "hi"), Message.of("assistant", "yo"))), False
    )
    assert parse({"prompt": "hi", "completion": "yo", "label": True}).desirable
    with pytest.raises(DataError, match="D122"):
        parse({"prompt": "hi", "completion": "yo", "label": 2})
    assert parse({"prompt": "hi", "completion": "yo", "label": 1}).desirable is True
    assert parse({"prompt": "hi", "completion": "yo", "label": 0}).desirable is False
    with pytest.raises(DataError, match="D121"):
        parse({"prompt": "hi", "completion": "yo"}, name="feedback")
    with pytest.raises(DataError, match="D121"):
        parse({"label": True}, name="feedback")


def test_verdicts_on_alpaca_rows_and_as_words():
    value = {"instruction": "hi", "input": "", "output": "yo", "kto_tag": True}
    assert parse(value).desirable
    assert parse({"instruction": "hi", "output": "yo", "label": False}).desirable is False
    # Another label is just a column.
    assert isinstance(parse({"instruction": "hi", "output": "yo", "label": "sport"}), Conversation)
    assert parse({"prompt": "hi", "completion": "yo", "label": "False"}).desirable is False
    turns = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}]
    assert parse({"conversations": turns, "kto_tag": True}).desirable
