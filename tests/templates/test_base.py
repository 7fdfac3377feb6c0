"""Choosing a template, and what is trained of a conversation."""

from __future__ import annotations

import pytest

from tests.templates.test_strings import TALK
from tunesmith.errors import ConfigError, DataError, TunesmithError
from tunesmith.templates import base
from tunesmith.types import Conversation, Message


@pytest.fixture
def chatml(trained):
    return base.load("chatml", trained["bytes"])


def weights(template, messages, **options):
    return [
        [(turn.weight, turn.prompt_weight) for turn in turns]
        for turns in template.render(Conversation(tuple(messages)), **options)
    ]


def test_a_model_without_a_template_gets_the_default_and_is_told(trained):
    template = base.load("auto", trained["bytes"])
    assert template.name == "default"
    assert "no chat template of its own" in template.notes[0]
    assert "Human: " in template.jinja


@pytest.mark.parametrize("name", ["chatmi", "nothing", "llama-3"])
def test_unknown_names(trained, name):
    with pytest.raises(ConfigError) as caught:
        base.load(name, trained["bytes"])
    assert caught.value.code == "C110"
    assert "alpaca" in caught.value.fix
    assert ("did you mean `chatml`?" in caught.value.fix) == (name == "chatmi")


@pytest.mark.parametrize(
    ("name", "code"),
    [("chatmi", "C110"), ("aquila@orginal", "C110"), ("nowhere/mine.toml", "D301")],
)
def test_names_are_checked_without_a_tokenizer(name, code):
    for good in ("auto", "chatml", "intern", "aquila@original", "chatglm-6b"):
        base.check(good)
    with pytest.raises(TunesmithError) as caught:
        base.check(name)
    assert caught.value.code == code


def test_files_that_are_not_there(trained):
    with pytest.raises(DataError) as caught:
        base.load("nowhere/mine.jinja", trained["bytes"])
    assert caught.value.code == "D301"


def test_source_hash_tells_templates_apart(trained):
    hashes = {base.load(name, trained["bytes"]).source_hash for name in base.names()}
    assert len(hashes) == len(base.names())


def test_all_turns_the_last_or_the_prompts_too(chatml):
    assert weights(chatml, TALK) == [[(1.0, 0.0), (1.0, 0.0)]]
    assert weights(chatml, TALK, train_on="last_turn") == [[(0.0, 0.0), (1.0, 0.0)]]
    assert weights(chatml, TALK, train_on="with_prompt") == [[(1.0, 1.0), (1.0, 1.0)]]


def test_a_messages_own_weight_overrules(chatml):
    heavy = (*TALK[:3], Message.of("assistant", "a2", 0.5))
    assert weights(chatml, heavy) == [[(1.0, 0.0), (0.5, 0.0)]]
    first = (TALK[0], Message.of("assistant", "a1", 2.0), *TALK[2:])
    assert weights(chatml, first, train_on="last_turn") == [[(2.0, 0.0), (1.0, 0.0)]]


def test_what_follows_the_last_trained_answer_is_left_out(chatml):
    [turns] = chatml.render(Conversation((*TALK, Message.of("user", "q3"))))
    assert len(turns) == 2
    unwanted = (*TALK[:3], Message.of("assistant", "a2", 0.0))
    [turns] = chatml.render(Conversation(unwanted))
    assert len(turns) == 1


@pytest.mark.parametrize(
    "messages", [TALK[:1], (), (TALK[0], Message.of("assistant", "a", 0.0))],
    ids=["question", "empty", "weight 0"],
)  # fmt: skip
def test_nothing_to_train(chatml, messages):
    with pytest.raises(DataError) as caught:
        chatml.render(Conversation(tuple(messages)))
    assert caught.value.code == "D303"


def test_answers_in_a_row(chatml):
    twice = (TALK[0], TALK[1], TALK[3])
    [turns] = chatml.encode_batch(chatml.render(Conversation(twice)))
    before = chatml.prompt_ids(Conversation(twice[:2]))
    assert turns[0].prompt_ids + turns[0].completion_ids + turns[1].prompt_ids == before


def test_an_empty_answer_is_marked(chatml):
    [turns] = chatml.encode_batch(
        chatml.render(Conversation((TALK[0], Message.of("assistant", " \n"), *TALK[2:])))
    )
    assert [turn.answered for turn in turns] == [False, True]
