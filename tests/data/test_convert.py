"""Samples to rows and back: the same samples, or a refusal that says what has no place."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, strategies as st

from tunesmith.data import convert, convert_lossy
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


CALLED = Conversation(
    (
        Message.of("user", "?"),
        Message("assistant", (Text("Let me see."), ToolCall("find", '{"x": 1}', "c1")), 0.5),
        Message("tool", (Text("1"),), None, "find", "c1"),
        Message("assistant", (Thinking("hm"), Text("One."))),
    ),
    ({"name": "find"},),
)


def test_ids_and_names_have_a_place_in_openai():
    (row,) = convert.rows(CALLED, "openai")
    assert row["messages"][2] == {
        "role": "tool", "content": "1", "name": "find", "tool_call_id": "c1",
    }  # fmt: skip
    assert parsed(row, "openai") == CALLED


def test_what_is_lost_is_named_and_nothing_else_is():
    made, lost = convert_lossy.rows(CALLED, "sharegpt")
    assert set(lost) == {
        "ids of tool calls", "names of speakers", "a message's weight", "reasoning",
        "a message of text and tool calls",
    }  # fmt: skip
    assert [turn["value"] for turn in made[0]["conversations"]] == [
        "?", '{"name": "find", "arguments": {"x": 1}}', "1", "One.",
    ]  # fmt: skip
    assert json.loads(made[0]["tools"]) == [{"name": "find"}]
    assert convert_lossy.rows(USED, "sharegpt") == (convert.rows(USED, "sharegpt"), [])
    pair = Preference(
        Conversation((Message.of("user", "?", 0.0),)), *((m,) for m in THOUGHT.messages[1:] * 2)
    )
    _, lost = convert_lossy.rows(pair, "alpaca")
    assert set(lost) == {"a message's weight", "reasoning"}
    feedback = Feedback(THOUGHT, True)
    assert set(convert_lossy.rows(feedback, "sharegpt")[1]) == {"a message's weight", "reasoning"}


@pytest.mark.parametrize("sample", [USED, CALLED, Document("x")])
def test_what_carries_the_meaning_is_never_dropped(sample):
    with pytest.raises(DataError, match="D128"):
        convert_lossy.rows(sample, "alpaca")


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
