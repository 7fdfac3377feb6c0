"""Lists and trees of texts: a written row, parsed again, is the sample it was made of."""

from __future__ import annotations

import pytest
from hypothesis import given

from tests.data.test_convert import USED, parsed, plain, words
from tunesmith.data import convert
from tunesmith.data.formats import base as formats
from tunesmith.data.json_rows import Row
from tunesmith.errors import DataError
from tunesmith.types import Conversation, Message, Preference

ASKED = Conversation((Message.of("user", "q"),))
PAIR = Preference(ASKED, (Message.of("assistant", "a"),), (Message.of("assistant", "b"),))


def back(row, name):
    found = parsed(row, name)
    return found if isinstance(found, tuple) else (found,)


def stripped(conversation):
    """The same without blanks around answers and without a system prompt."""
    return Conversation(
        tuple(
            Message.of(m.role, m.text.strip() if m.role == "assistant" else m.text)
            for m in conversation.messages
            if m.role != "system"
        )
    )


@given(conversation=plain())
def test_ultrachat(conversation):
    (row,) = convert.rows(conversation, "ultrachat")
    assert formats.detect([Row(row, "f", 1)]) == "ultrachat"
    assert back(row, "ultrachat") == (conversation,)


@given(conversation=plain())
def test_trees(conversation):
    bare = Conversation(tuple(m for m in conversation.messages if m.role != "system"))
    (row,) = convert.rows(bare, "oasst")
    assert formats.detect([Row(row, "f", 1)], accepts=[Conversation]) == "oasst"
    assert back(row, "oasst") == (bare,)


@pytest.mark.parametrize("name", ["self_instruct", "hc3_human", "hc3_chatgpt"])
@given(question=words, answer=words)
def test_one_question_and_its_answer(name, question, answer):
    talk = Conversation((Message.of("user", question), Message.of("assistant", answer.strip())))
    (row,) = convert.rows(talk, name)
    assert back(row, name) == (talk,)


@given(before=plain(), chosen=words, rejected=words, asked=words)
def test_pairs_of_trees(before, chosen, rejected, asked):
    earlier = tuple(m for m in before.messages if m.role != "system")
    sides = ((Message.of("assistant", text),) for text in (chosen, rejected))
    pair = Preference(Conversation((*earlier, Message.of("user", asked))), *sides)
    (row,) = convert.rows(pair, "oasst_pairs")
    assert formats.detect([Row(row, "f", 1)], accepts=[Preference]) == "oasst_pairs"
    assert back(row, "oasst_pairs") == (pair,)


@given(asked=words, chosen=words, rejected=words)
def test_pairs_of_hc3(asked, chosen, rejected):
    sides = ((Message.of("assistant", text.strip()),) for text in (chosen, rejected))
    pair = Preference(Conversation((Message.of("user", asked),)), *sides)
    (row,) = convert.rows(pair, "hc3_pairs")
    assert formats.detect([Row(row, "f", 1)], accepts=[Preference]) == "hc3_pairs"
    assert back(row, "hc3_pairs") == (pair,)


TWO = Conversation((*ASKED.messages, Message.of("assistant", "a")) * 2)
KIND = Conversation((Message.of("system", "s"), *ASKED.messages, Message.of("assistant", "a")))
BLANK = Conversation((*ASKED.messages, Message.of("assistant", " a")))
LONG = Preference(ASKED, (*PAIR.chosen, *ASKED.messages), PAIR.rejected)


@pytest.mark.parametrize(
    ("sample", "name", "what"),
    [
        (USED, "ultrachat", "tools"),
        (TWO, "self_instruct", "several turns"),
        (TWO, "hc3_human", "several turns"),
        (KIND, "oasst", "system prompt"),
        (KIND, "hc3_chatgpt", "system prompt"),
        (BLANK, "hc3_human", "blanks"),
        (LONG, "oasst_pairs", "several messages"),
        (TWO, "hc3_pairs", "is no preference"),
    ],
)
def test_what_has_no_place_is_refused(sample, name, what):
    with pytest.raises(DataError, match="D128") as caught:
        convert.rows(sample, name)
    assert what in str(caught.value)


def test_every_format_but_whole_files_can_be_written():
    from tunesmith import registry

    assert set(registry.names("formats")) - set(convert.targets()) == {"document"}
