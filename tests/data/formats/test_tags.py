"""Columns that are absent, turns under other names, and advice for rows that fit nothing."""

from __future__ import annotations

import pytest

from tests.data.formats.parsing import QA, parse, row, said
from tunesmith.data.formats import base
from tunesmith.errors import DataError
from tunesmith.types import ToolCall

TAGS = {
    "messages": "chat",
    "role_tag": "speaker",
    "content_tag": "says",
    "user_tag": "Customer",
    "assistant_tag": "Smith",
    "observation_tag": "Result",
    "function_tag": "Call",
    "system_tag": "Rules",
}


def says(speaker, text):
    return {"speaker": speaker, "says": text, "at": 3}


def test_turns_under_other_names():
    value = {
        "chat": [
            says("Rules", "be kind"),
            says("Customer", "hi"),
            says("Call", '{"name": "f", "arguments": {}}'),
            says("Result", "5"),
            says("Smith", "yo"),
        ]
    }
    assert base.detect([row(value)], TAGS) == "sharegpt"
    sample = parse(value, TAGS)
    roles = [message.role for message in sample.messages]
    assert roles == ["system", "user", "assistant", "tool", "assistant"]
    assert sample.messages[2].parts == (ToolCall("f", "{}"),)


def test_pairs_and_verdicts_under_other_names():
    asked, good, bad = [says("Customer", "hi")], says("Smith", "yo"), says("Smith", "no")
    tags = {role: name for role, name in TAGS.items() if role != "messages"}
    columns = {**tags, "prompt": "chat", "chosen": "better", "rejected": "worse"}
    pair = parse({"chat": asked, "better": good, "worse": bad}, columns)
    assert said(pair.prompt) == [("user", "hi")]
    assert said(pair.chosen) == [("assistant", "yo")]
    assert said(pair.rejected) == [("assistant", "no")]
    verdict = {**TAGS, "label": "liked"}
    assert parse({"chat": [*asked, good], "liked": False}, verdict, name="feedback").desirable is (
        False
    )


def test_an_empty_name_says_that_there_is_no_such_column():
    value = {"input": "hi", "target": "yo", "history": [["a", "b"]], "system": "be kind"}
    columns = {"instruction": "input", "input": "", "output": "target", "history": ""}
    found = parse(value, columns, name="alpaca")
    assert said(found) == [("system", "be kind"), *QA]
    assert said(parse(value, {**columns, "system": ""}, name="alpaca")) == QA


def test_a_mapped_column_is_no_other_role():
    """`input` is the question here, not something to add to it."""
    value = {"input": "hi", "target": "yo"}
    columns = {"instruction": "input", "output": "target"}
    assert said(parse(value, columns, name="alpaca")) == QA
    found = parse({"title": "hi", "answer": "yo"}, {"prompt": "title"}, name="prompt_completion")
    assert said(found) == QA


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        ({"question": "a", "std_answer": "b", "class": "c"}, "prompt: question, completion: std_"),
        (
            {"question": "a", "answer_zh": "b", "answer_en": "c"},
            "prompt: question, chosen: answer_zh, rejected: answer_en} .*the better answer as",
        ),
        ({"foo": "a", "bar": "b"}, r"columns: \{prompt: NAME, completion: NAME\} \(or --columns"),
        ({"promt": "a", "completion": "b"}, "`promt`: did you mean `prompt`?"),
    ],
)
def test_advice_for_rows_that_fit_nothing(value, advice):
    with pytest.raises(DataError, match=rf"D120(.|\n)*{advice}"):
        base.detect([row(value)])
