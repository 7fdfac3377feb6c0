"""Alpaca rows, their history in both forms, and what is refused."""

from __future__ import annotations

import pytest

from tests.data.formats.parsing import QA, parse, said
from tunesmith.errors import DataError
from tunesmith.recipe.sections import DataConfig


def test_alpaca():
    assert said(parse({"instruction": "hi", "output": "yo"})) == QA
    assert said(parse({"instruction": "hi", "input": "", "output": "yo", "history": None})) == QA
    joined = parse({"instruction": "add", "input": "1 2", "output": "3"})
    assert said(joined)[0] == ("user", "add\n1 2")
    config = DataConfig(input_joiner="")
    assert (
        said(parse({"instruction": "a", "input": "b", "output": "c"}, config=config))[0][1] == "ab"
    )
    assert said(parse({"instruction": "", "input": "b", "output": "c"}))[0][1] == "b"
    with_system = parse({"instruction": "hi", "output": "yo", "system": "be kind"})
    assert said(with_system) == [("system", "be kind"), *QA]


def test_alpaca_history_flat_and_in_pairs_are_the_same():
    flat = {"instruction": "hi", "output": "yo", "history": ["a", "b", "c", "d"]}
    pairs = {**flat, "history": [["a", "b"], ["c", "d"]]}
    assert parse(flat) == parse(pairs)
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    assert said(parse(flat)) == turns + QA
    # Two characters are not a pair: strings are turns, whatever their length.
    assert said(parse({**flat, "history": ["ab", "cd"]}))[:2] == [
        ("user", "ab"),
        ("assistant", "cd"),
    ]


@pytest.mark.parametrize(
    ("history", "code"),
    [
        (["a"], "D123"),
        ([["a"]], "D123"),
        ([["a", "b"], "c"], "D123"),
        ("a", "D123"),
        ({"a": "b"}, "D123"),
        ([["a", 5]], "D122"),
        ([["a", ""]], "D122"),
    ],
)
def test_alpaca_history_that_is_none(history, code):
    with pytest.raises(DataError, match=rf"{code}(.|\n)*f.jsonl:7"):
        parse({"instruction": "hi", "output": "yo", "history": history}, name="alpaca")


@pytest.mark.parametrize(
    ("value", "code", "word"),
    [
        ({"instruction": "hi"}, "D121", "output"),
        ({"output": "yo"}, "D121", "instruction"),
        ({"instruction": "hi", "output": ""}, "D122", "output"),
        ({"instruction": " ", "output": "yo"}, "D122", "instruction"),
        ({"instruction": None, "output": "yo"}, "D122", "null"),
        ({"instruction": "hi", "output": 5}, "D122", "a number"),
        ({"instruction": "hi", "input": ["x"], "output": "yo"}, "D122", "a list"),
        ("plain", "D122", "plain text"),
    ],
)
def test_alpaca_rows_that_are_bad(value, code, word):
    with pytest.raises(DataError, match=rf"{code}.*{word}(.|\n)*f.jsonl:7"):
        parse(value, name="alpaca")


def test_a_conversation_in_the_instruction():
    """BELLE's multi-turn rows."""
    value = {
        "instruction": "Human:a\nAssistant:b: c\nHuman:hi\n\nAssistant:",
        "input": "",
        "output": "yo",
    }
    turns = [("user", "a"), ("assistant", "b: c"), ("user", "hi"), ("assistant", "yo")]
    assert said(parse(value)) == turns
    assert said(parse({**value, "instruction": "Human: hi\nAssistant: "})) == turns[2:]
    # What only speaks of such markers is no conversation.
    for plain in ("Write Human: or Assistant:", "Human: hi", "Assistant:"):
        assert said(parse({**value, "instruction": plain}))[0] == ("user", plain)
    for bad, code in (
        ("Human:a\nHuman:b\nAssistant:", "D123"),
        ("Human:a\nAssistant:b\nAssistant:", "D123"),
        ("Human:\nAssistant:", "D122"),
    ):
        with pytest.raises(DataError, match=rf"{code}(.|\n)*f.jsonl:7"):
            parse({**value, "instruction": bad})
