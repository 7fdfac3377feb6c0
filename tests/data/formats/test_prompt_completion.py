"""Questions and answers in two columns."""

from __future__ import annotations

import pytest

from tests.data.formats.parsing import QA, parse, said
from tunesmith.data import overlooked
from tunesmith.data.formats import prompt_completion
from tunesmith.data.json_rows import Row
from tunesmith.errors import DataError
from tunesmith.recipe.sections import DataConfig


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("prompt", "completion"),
        ("q", "a"),
        ("question", "answer"),
        ("query", "response"),
        ("src", "tgt"),
        ("content", "summary"),
        ("input", "target"),
        ("input", "output"),
    ],
)
def test_pairs_of_columns(question, answer):
    assert said(parse({question: "hi", answer: "yo", "id": 3})) == QA


def test_lists_are_turns_of_one_conversation():
    value = {"src": ["hi", "and"], "tgt": ["yo", "so"], "context": {"system": "be kind"}}
    assert said(parse(value)) == [
        ("system", "be kind"),
        *QA,
        ("user", "and"),
        ("assistant", "so"),
    ]
    for bad in ({"src": ["a"], "tgt": []}, {"src": ["a"], "tgt": "b"}, {"src": [], "tgt": []}):
        with pytest.raises(DataError, match=r"D12[23]"):
            parse(bad)


@pytest.mark.parametrize(
    ("context", "unused"),
    [
        ({"system": "be kind"}, []),
        ({"system": "be kind", "mood": "sad", "empty": ""}, ["`context.mood`"]),
        ({"mood": "sad"}, ["`context`"]),
        ("some text", ["`context`"]),
    ],
)
def test_what_of_a_context_is_not_used_is_told(context, unused):
    row = overlooked.watched(Row({"src": "hi", "tgt": "yo", "context": context}, "f", 1))
    made = prompt_completion.parse(row, {}, DataConfig())
    assert list(overlooked.found(row, (made,))) == unused


def test_messages_as_prompt_and_completion():
    value = {
        "prompt": [{"role": "user", "content": "hi"}],
        "completion": [{"role": "assistant", "content": "yo"}],
    }
    assert said(parse(value)) == QA
