"""Lists of {role, content}, with their extensions."""

from __future__ import annotations

import json

import pytest

from tests.data.formats.parsing import QA, parse, said
from tunesmith.errors import DataError
from tunesmith.types import (
    Message,
    Text,
    Thinking,
    ToolCall,
)


def test_openai():
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
    assert said(parse({"messages": messages})) == QA
    assert said(parse({"conversations": messages})) == QA
    with_system = parse({"messages": messages, "system": "be kind"})
    assert said(with_system) == [("system", "be kind"), *QA]


def test_openai_weights_tools_and_thinking():
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    value = {
        "messages": [
            {"role": "developer", "content": "be kind"},
            {"role": "user", "content": [{"type": "text", "text": "hi"}]},
            {"role": "assistant", "content": None, "tool_calls": [call], "weight": 0},
            {"role": "tool", "content": "5", "tool_call_id": "1"},
            {"role": "assistant", "content": "yo", "reasoning_content": "hm", "weight": 1},
        ],
        "tools": json.dumps([{"type": "function", "function": {"name": "f"}}]),
    }
    sample = parse(value)
    assert [message.role for message in sample.messages] == [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert sample.messages[2] == Message("assistant", (ToolCall("f", '{"x": 1}', "1"),), 0.0)
    assert sample.messages[4] == Message("assistant", (Thinking("hm"), Text("yo")), 1.0)
    assert sample.tools == ({"type": "function", "function": {"name": "f"}},)


def test_openai_typed_parts_with_values():
    parts = [
        {"type": "reasoning", "value": "hm"},
        {"type": "text", "value": "yo"},
        {"type": "tool_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
    ]
    value = {
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": parts, "loss_weight": 1.0},
        ]
    }
    assert parse(value).messages[1].parts == (Thinking("hm"), Text("yo"), ToolCall("f", '{"x": 1}'))


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"content": "x"}, "D123"),
        ({"role": "narrator", "content": "x"}, "D123"),
        ({"role": ["user"], "content": "x"}, "D123"),
        ({"role": "user", "content": ""}, "D122"),
        ({"role": "user", "content": 5}, "D122"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "D124"),
        ({"role": "user", "content": [{"type": "odd", "odd": "x"}]}, "D122"),
        ({"role": "user", "content": "x", "weight": "1"}, "D122"),
        ({"role": "user", "content": "x", "weight": True}, "D122"),
        ({"role": "user", "content": "x", "weight": -1}, "D122"),
        ({"role": "assistant", "tool_calls": [{"id": "1"}]}, "D123"),
        ({"role": "assistant", "tool_calls": "f()"}, "D123"),
        ("x", "D123"),
    ],
)
def test_openai_messages_that_are_bad(message, code):
    with pytest.raises(DataError, match=rf"{code}(.|\n)*f.jsonl:7"):
        parse({"messages": [{"role": "user", "content": "hi"}, message]}, name="openai")


def test_openai_rows_that_are_bad():
    good = [{"role": "user", "content": "hi"}]
    for value, code in (
        ({"messages": []}, "D122"),
        ({"messages": "hi"}, "D123"),
        ({"other": 1}, "D121"),
        ({"messages": good, "tools": "{nonsense"}, "D123"),
        ({"messages": good, "tools": 7}, "D123"),
        ({"messages": good, "images": ["a.png"]}, "D124"),
    ):
        with pytest.raises(DataError, match=code):
            parse(value, name="openai")


def test_results_of_tools_name_their_call():
    rows = [{"role": "user", "content": "q"},
            {"role": "tool", "tool_call_id": "abcdefghi", "name": "get_w", "content": "rain"},
            {"role": "assistant", "content": "a"}]  # fmt: skip
    found = parse({"messages": rows}).messages
    assert (found[1].name, found[1].tool_call_id) == ("get_w", "abcdefghi")


def test_the_older_function_call():
    turns = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "5"},
        {"role": "assistant", "content": "yo"},
    ]
    sample = parse({"messages": turns})
    assert sample.messages[1].parts == (ToolCall("f", "{}"),)
    assert [message.role for message in sample.messages][2] == "tool"


def test_null_is_absent():
    """As a table has it, where some other row has the key."""
    turn = {
        "role": "assistant",
        "content": "yo",
        "reasoning_content": None,
        "thinking": "hm",
        "weight": None,
        "loss_weight": 0.5,
        "tool_calls": None,
        "function_call": None,
    }
    sample = parse({"messages": [{"role": "user", "content": "hi"}, turn], "tools": None})
    assert sample.messages[1] == Message("assistant", (Thinking("hm"), Text("yo")), 0.5)
