"""Lists of {from, value}."""

from __future__ import annotations

import pytest

from tests.data.formats.parsing import parse
from tunesmith.errors import DataError
from tunesmith.types import (
    ToolCall,
)


def test_sharegpt():
    value = {
        "conversations": [
            {"from": "human", "value": "hi"},
            {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
            {"from": "observation", "value": "5"},
            {"from": "gpt", "value": "yo"},
        ],
        "system": "be kind",
        "tools": '[{"name": "f"}]',
    }
    sample = parse(value)
    assert [m.role for m in sample.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert sample.messages[2].parts == (ToolCall("f", '{"x": 1}'),)
    assert sample.tools == ({"name": "f"},)


@pytest.mark.parametrize(
    ("turn", "code"),
    [
        ({"value": "x"}, "D123"),
        ({"from": "martian", "value": "x"}, "D123"),
        ({"from": "gpt", "value": ""}, "D122"),
        ({"from": "gpt"}, "D122"),
        ({"from": "function_call", "value": "f(1)"}, "D123"),
    ],
)
def test_sharegpt_turns_that_are_bad(turn, code):
    with pytest.raises(DataError, match=rf"{code}(.|\n)*f.jsonl:7"):
        parse({"conversations": [{"from": "human", "value": "hi"}, turn]}, name="sharegpt")
    with pytest.raises(DataError, match="D12"):
        parse({"conversations": []}, name="sharegpt")
    with pytest.raises(DataError, match="D121"):
        parse({"other": []}, name="sharegpt")
