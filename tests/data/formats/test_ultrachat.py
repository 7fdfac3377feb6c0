"""UltraChat's lists and Self-Instruct's tasks."""

from __future__ import annotations

import pytest

from tests.data.formats.parsing import CONFIG, QA, parse, row, said
from tunesmith.data.formats import base
from tunesmith.errors import DataError


def test_ultrachat():
    value = {"id": "0", "data": ["hi", "yo", "and", "so"]}
    assert base.detect([row(value)]) == "ultrachat"
    assert said(parse(value)) == [*QA, ("user", "and"), ("assistant", "so")]
    assert said(parse({"data": ["hi", "yo", "and"]})) == [*QA, ("user", "and")]
    assert said(parse({"conversations": ["hi", "yo"], "source": "lima"})) == QA
    assert said(parse({"talk": ["hi", "yo"]}, {"turns": "talk"})) == QA
    assert said(parse({"data": ["hi", "yo"], "system": "be kind"}))[0] == ("system", "be kind")


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ({"data": ["hi"]}, "D123"),
        ({"data": "hi"}, "D123"),
        ({"data": ["hi", ""]}, "D122"),
        ({"data": ["hi", 5]}, "D122"),
        ({"other": ["hi", "yo"]}, "D121"),
    ],
)
def test_ultrachat_rows_that_are_bad(value, code):
    with pytest.raises(DataError, match=rf"{code}(.|\n)*f.jsonl:7"):
        parse(value, name="ultrachat")


def test_self_instruct_gives_a_sample_for_each_instance():
    value = {
        "instruction": "Name a colour.",
        "instances": [{"input": "", "output": "red"}, {"input": "dark", "output": "navy"}],
    }
    assert base.detect([row(value)]) == "self_instruct"
    found = base.samples(base.load("self_instruct"), row(value), {}, CONFIG)
    assert [said(one) for one in found] == [
        [("user", "Name a colour."), ("assistant", "red")],
        [("user", "Name a colour.\ndark"), ("assistant", "navy")],
    ]
    for bad, code in (
        ({"instruction": "a"}, "D121"),
        ({"instruction": "a", "instances": ["b"]}, "D123"),
        ({"instruction": "a", "instances": [{"input": "b"}]}, "D121"),
    ):
        with pytest.raises(DataError, match=rf"{code}(.|\n)*f.jsonl:7"):
            parse(bad, name="self_instruct")
