"""Pairs in every layout become the same sample."""

from __future__ import annotations

import pytest

from tests.data.formats.parsing import parse, row, said
from tunesmith.data.formats import base
from tunesmith.errors import DataError
from tunesmith.types import (
    Preference,
)


def u(text):
    return {"role": "user", "content": text}


def a(text):
    return {"role": "assistant", "content": text}


def s(text):
    return {"role": "system", "content": text}


PAIRS = {
    "texts": {"prompt": "hi", "chosen": "yo", "rejected": "no"},
    "messages": {"prompt": [u("hi")], "chosen": [a("yo")], "rejected": [a("no")]},
    "one message": {"messages": [u("hi")], "chosen": a("yo"), "rejected": a("no")},
    "implicit prompt": {"chosen": [u("hi"), a("yo")], "rejected": [u("hi"), a("no")]},
    "repeated prompt": {
        "prompt": [u("hi")],
        "chosen": [u("hi"), a("yo")],
        "rejected": [u("hi"), a("no")],
    },
    "other names": {"chosen_messages": [u("hi"), a("yo")], "rejected_messages": [u("hi"), a("no")]},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "hi"}],
        "chosen": {"from": "gpt", "value": "yo"},
        "rejected": {"from": "gpt", "value": "no"},
    },
    "transcripts": {
        "chosen": "\n\nHuman: hi\n\nAssistant: yo",
        "rejected": "\n\nHuman: hi\n\nAssistant: no",
    },
    "alpaca": {"instruction": "hi", "input": "", "output": ["yo", "no", "third"]},
    "two answer columns": {"question": "hi", "response_j": "yo", "response_k": "no"},
    "system in the answers": {
        "prompt": "hi",
        "chosen": [s("kind"), u("hi"), a("yo")],
        "rejected": [s("kind"), u("hi"), a("no")],
    },
    "alpaca columns": {"instruction": "hi", "chosen": "yo", "rejected": "no"},
}


@pytest.mark.parametrize("layout", PAIRS)
def test_preference_layouts_are_one(layout):
    assert base.detect([row(PAIRS[layout])]) == "preference"
    sample = parse(PAIRS[layout])
    assert isinstance(sample, Preference)
    assert [turn for turn in said(sample.prompt) if turn[0] != "system"] == [("user", "hi")]
    assert said(sample.chosen) == [("assistant", "yo")]
    assert said(sample.rejected) == [("assistant", "no")]


def test_preference_keeps_history_system_and_equal_answers():
    value = {"instruction": "hi", "output": ["yo", "no"], "history": [["a", "b"]], "system": "kind"}
    prompt = parse(value).prompt
    assert said(prompt) == [
        ("system", "kind"),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "hi"),
    ]
    equal = parse({"chosen": [u("hi"), a("yo")], "rejected": [u("hi"), a("yo")]})
    assert said(equal.chosen) == said(equal.rejected) == [("assistant", "yo")]
    long = "\n\nHuman: a\n\nAssistant: b\n\nHuman: hi\n\nAssistant: "
    turns = parse({"chosen": long + "yo", "rejected": long + "no"})
    assert said(turns.prompt) == [("user", "a"), ("assistant", "b"), ("user", "hi")]


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ({"prompt": "hi", "chosen": "yo"}, "D121"),
        ({"chosen": "yo", "rejected": "no"}, "D121"),
        ({"prompt": "hi", "chosen": "yo", "rejected": ""}, "D122"),
        ({"prompt": "hi", "chosen": 5, "rejected": "no"}, "D123"),
        ({"prompt": None, "chosen": "yo", "rejected": "no"}, "D122"),
        ({"instruction": "hi", "output": ["yo"]}, "D122"),
        ({"chosen": [u("hi"), a("yo")], "rejected": [u("ho"), a("no")]}, "D123"),
        ({"prompt": "hi", "chosen": "yo", "rejected": "no", "images": ["a"]}, "D124"),
        ({"chosen": "x\n\nHuman: hi", "rejected": "x\n\nHuman: hi"}, "D123"),
    ],
)
def test_preference_rows_that_are_bad(value, code):
    with pytest.raises(DataError, match=rf"{code}(.|\n)*f.jsonl:7"):
        parse(value, name="preference")
