"""HC3: the side has to be chosen; both make pairs."""

from __future__ import annotations

import pytest

from tests.data.formats.parsing import CONFIG, row, said
from tunesmith.data.formats import base
from tunesmith.errors import DataError
from tunesmith.types import Conversation, Preference

VALUE = {
    "question": "hi",
    "human_answers": ["hey", " ", "hello"],
    "chatgpt_answers": ["Greetings.", "Salutations."],
    "source": "x",
}


def samples(name, value=VALUE, columns=None):
    return base.samples(base.load(name), row(value), columns or {}, CONFIG)


def test_each_answer_of_the_chosen_side_is_a_conversation():
    assert [said(one)[1][1] for one in samples("hc3_human")] == ["hey", "hello"]
    assert [said(one)[1][1] for one in samples("hc3_chatgpt")] == ["Greetings.", "Salutations."]
    assert said(samples("hc3_human")[0])[0] == ("user", "hi")
    assert samples("hc3_human", {**VALUE, "human_answers": []}) == ()


def test_pairs_and_how_they_are_swapped():
    found = samples("hc3_pairs")
    assert [(said(p.chosen)[0][1], said(p.rejected)[0][1]) for p in found] == [
        ("hey", "Greetings."),
        ("hello", "Salutations."),
    ]
    swap = {"human_answers": "chatgpt_answers", "chatgpt_answers": "human_answers"}
    (first, _) = samples("hc3_pairs", columns=swap)
    assert said(first.chosen) == [("assistant", "Greetings.")]
    assert said(first.rejected) == [("assistant", "hey")]


def test_the_side_has_to_be_said():
    with pytest.raises(DataError, match=r"D120(.|\n)*hc3_chatgpt, hc3_human"):
        base.detect([row(VALUE)], accepts=(Conversation,))
    assert base.detect([row(VALUE)], accepts=(Preference,)) == "hc3_pairs"


def test_rows_that_are_bad():
    for value, code in (
        ({"question": "hi"}, "D121"),
        ({**VALUE, "question": ""}, "D122"),
        ({**VALUE, "human_answers": "hey"}, "D122"),
    ):
        with pytest.raises(DataError, match=rf"{code}(.|\n)*f.jsonl:7"):
            samples("hc3_human", value)
