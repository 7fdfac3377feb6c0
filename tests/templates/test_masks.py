"""Which tokens are trained, by hand: a letter is a token, `§` ends an answer, `_` is untrained."""

from __future__ import annotations

import pytest

from tunesmith.data.collate import collate
from tunesmith.stages.base import build
from tunesmith.stages.sft import SftConfig
from tunesmith.templates import base
from tunesmith.types import Conversation, Example, Message, Parts

BARE = 'description = "bare"\nuser = "{content}"\nsystem = ""\n'
TALK = (
    Message.of("user", "ab"), Message.of("assistant", "cd"),
    Message.of("user", "ef"), Message.of("assistant", "g"),
)  # fmt: skip


@pytest.fixture(scope="module")
def bare(letters, tmp_path_factory):
    path = tmp_path_factory.mktemp("bare") / "bare.toml"
    path.write_text(BARE)
    return base.load(str(path), letters)


def masked(template, example: Example) -> tuple[str, str]:
    """The text of an example, and the same with `_` for what is not trained."""
    text = [template.tokenizer.decode([id]) for id in example.ids_T.tolist()]
    shown = [c if w else "_" for c, w in zip(text, example.weights_T, strict=True)]
    return "".join(text), "".join(shown)


def encoded(template, messages=TALK, **config) -> list[Example]:
    stage = build(SftConfig(**config), Parts(template, 64, "error"))
    [found] = stage.encode([Conversation(messages)])
    assert not found.problem
    return list(found.examples)


def test_all_turns_are_trained_in_one_sequence(bare):
    [example] = encoded(bare)
    assert masked(bare, example) == ("abcd§efg§", "__cd§__g§")
    assert collate([example]).units["tokens"] == 5.0


def test_only_the_last_turn(bare):
    [example] = encoded(bare, train_on="last_turn")
    assert masked(bare, example) == ("abcd§efg§", "_______g§")


def test_the_prompts_too(bare):
    [example] = encoded(bare, train_on="with_prompt")
    assert masked(bare, example) == ("abcd§efg§", "_bcd§efg§")


def test_weights_of_messages_are_kept_token_by_token(bare):
    heavy = (
        TALK[0],
        Message.of("assistant", "cd", 0.0),
        TALK[2],
        Message.of("assistant", "g", 2.0),
    )
    [example] = encoded(bare, heavy)
    assert masked(bare, example) == ("abcd§efg§", "_______g§")
    assert example.weights_T.tolist() == [0.0] * 7 + [2.0, 2.0]
    light = (TALK[0], Message.of("assistant", "cd", 0.25), *TALK[2:])
    [example] = encoded(bare, light)
    assert example.weights_T.tolist() == [0.0, 0.0, 0.25, 0.25, 0.25, 0.0, 0.0, 1.0, 1.0]


def test_without_history_each_turn_is_an_example(letters):
    template = base.load("vanilla", letters)
    found = [masked(template, example) for example in encoded(template)]
    assert found == [("abcd§", "__cd§"), ("efg§", "__g§")]
    last = encoded(template, train_on="last_turn")
    assert [masked(template, example) for example in last] == [("efg§", "__g§")]


def test_an_end_that_opens_the_next_question_is_trained_once(letters, tmp_path):
    path = tmp_path / "shared.toml"
    path.write_text(
        'description = "x"\nuser = "§{content}:"\nend = "§"\nend_opens_user = true\nsystem = ""\n'
    )
    template = base.load(str(path), letters)
    [example] = encoded(template)
    assert masked(template, example) == ("§ab:cd§ef:g§", "____cd§___g§")
