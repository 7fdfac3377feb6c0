"""Samples to rows and back: the same samples, or a refusal that says what has no place."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from tunesmith.data import convert
from tunesmith.data.formats import base as formats
from tunesmith.data.json_rows import Row
from tunesmith.errors import DataError
from tunesmith.recipe.sections import DataConfig
from tunesmith.types import (
    Conversation,
    Document,
    Feedback,
    Message,
    Preference,
    Text,
    Thinking,
    ToolCall,
)

CONVERSATIONS = ("openai", "sharegpt", "alpaca", "prompt_completion")
words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda t: t.strip())


def parsed(row, name):
    return formats.load(name).parse(Row(row, "f", 1), {}, DataConfig())


@st.composite
def plain(draw):
    turns = draw(st.lists(st.tuples(words, words), min_size=1, max_size=3))
    head = (Message.of("system", draw(words)),) if draw(st.booleans()) else ()
    said = [m for q, a in turns for m in (Message.of("user", q), Message.of("assistant", a))]
    return Conversation((*head, *said))


@pytest.mark.parametrize("name", CONVERSATIONS)
@given(conversation=plain())
def test_plain_conversations_come_back(name, conversation):
    (row,) = convert.rows(conversation, name)
    assert formats.detect([Row(row, "f", 1)]) == name
    assert parsed(row, name) == conversation


CALL = Message("assistant", (ToolCall("find", '{"x": 1}'),))
USED = Conversation(
    (Message.of("user", "?"), CALL, Message.of("tool", "1"), Message.of("assistant", "One.")),
    ({"name": "find"},),
)
THOUGHT = Conversation(
    (Message.of("user", "?"), Message("assistant", (Thinking("hm"), Text("Yes.")), 0.5))
)


@pytest.mark.parametrize(
    ("sample", "name"),
    [(USED, "openai"), (USED, "sharegpt"), (THOUGHT, "openai"), (Document("a\nb"), "text")],
)
def test_what_has_a_place_comes_back(sample, name):
    (row,) = convert.rows(sample, name)
    assert parsed(row, name) == sample


@pytest.mark.parametrize(
    ("sample", "name", "what"),
    [
        (USED, "alpaca", "tools"),
        (THOUGHT, "sharegpt", "reasoning"),
        (Conversation((Message.of("user", "?"),)), "alpaca", "alternate"),
        (Conversation((Message.of("user", "?"), Message.of("assistant", "!", 0.0))), "sharegpt",
         "weight"),
        (Document("x"), "openai", "a document is no conversation"),
        (Conversation(()), "feedback", "a conversation is no feedback"),
        (Conversation((Message("assistant", (Text("a"), Thinking("b"))),)), "openai",
         "reasoning that does not begin"),
        (Conversation((Message("assistant", (Text("a"), ToolCall("f", "{}"))),)), "sharegpt",
         "text and tool calls"),
    ],
)  # fmt: skip
def test_what_has_no_place_is_refused(sample, name, what):
    with pytest.raises(DataError, match="D128") as caught:
        convert.rows(sample, name)
    assert what in str(caught.value)


@given(before=plain(), chosen=words, rejected=words, asked=words)
def test_pairs_come_back(before, chosen, rejected, asked):
    prompt = Conversation((*before.messages, Message.of("user", asked)))
    sides = ((Message.of("assistant", text),) for text in (chosen, rejected))
    pair = Preference(prompt, *sides)
    (row,) = convert.rows(pair, "preference")
    assert parsed(row, "preference") == pair


def test_a_simple_pair_is_three_texts():
    pair = Preference(
        Conversation((Message.of("system", "s"), Message.of("user", "q"))),
        (Message.of("assistant", "a"),),
        (Message.of("assistant", "b"),),
    )
    (row,) = convert.rows(pair, "preference")
    assert row == {"prompt": "q", "chosen": "a", "rejected": "b", "system": "s"}
    assert parsed(row, "preference") == pair
    good, bad = convert.rows(pair, "feedback")
    assert (good["label"], bad["label"]) == (True, False)
    assert parsed(bad, "feedback").conversation.messages[-1].text == "b"
    (kept,) = convert.rows(pair, "alpaca")
    assert kept["output"] == "a"
    assert (
        convert.said(Preference, "alpaca")
        == "chosen answers are kept, rejected ones and margins dropped"
    )


def test_only_desirable_answers_become_conversations():
    talk = Conversation((Message.of("user", "q"), Message.of("assistant", "a")))
    assert convert.rows(Feedback(talk, False), "openai") == []
    assert len(convert.rows(Feedback(talk, True), "openai")) == 1
    (row,) = convert.rows(Feedback(talk, False), "feedback")
    assert parsed(row, "feedback") == Feedback(talk, False)
