"""New words: one token each, old text untouched, old logits untouched, and training goes on."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from tests.templates.conftest import CONTROLS, KINDS, train
from tunesmith.exporting import tokens_impl, vocabulary
from tunesmith.templates.encode import SegmentEncoder
from tunesmith.templates.pieces import Piece
from tunesmith.templates.tokenizer import Tokenizer

WORDS = ["词表", "微型模型", "天气", "hyperword", "天气预报"]
OLD = [
    "the world question, a test of words.",
    " two  spaces",
    "你好，世界。",
    "</s> end",
    "hyper word",
]


@pytest.fixture(scope="module", params=KINDS)
def pair(request, tmp_path_factory) -> tuple[Tokenizer, tokens_impl.Extended, Tokenizer]:
    """A tokenizer, what became of it, and that read anew."""
    old = Tokenizer.load(train(request.param, tmp_path_factory.mktemp(request.param)))
    made = tokens_impl.extend(old, WORDS)
    folder = tmp_path_factory.mktemp("new")
    vocabulary._write_tokenizer(old, made.rust, folder)
    return old, made, Tokenizer.load(folder)


def test_each_word_is_one_token_under_the_next_id(pair):
    old, made, new = pair
    added = [word for word in WORDS if word not in made.skipped.get("a token already", ())]
    assert len(added) >= 4
    assert list(made.pieces) == list(range(old.vocab_size, old.vocab_size + len(added)))
    for id, word in zip(made.pieces, added, strict=True):
        assert new.encode_text(word) == [id]
        assert new.decode([id]) == word
        assert made.pieces[id] == old.encode_batch([word], "text")[0]


def test_words_are_found_in_text_and_nothing_is_put_between(pair):
    _, made, new = pair
    ids = new.encode_text("今天天气预报好，词表")
    spelled = [new.decode([id]) for id in ids if id in made.pieces]
    assert spelled == ["天气预报", "词表"]  # the longest
    text = new.decode(ids)
    assert " 好" not in text
    assert " 词" not in text


def test_a_word_with_spaces_around_it_is_no_part_of_another(pair):
    old, _, new = pair
    assert new.encode_text("hyperwords") == old.encode_text("hyperwords")


@settings(max_examples=150, deadline=None)
@given(text=st.one_of(st.sampled_from(OLD), st.text(max_size=40)))
def test_old_text_keeps_its_ids(pair, text):
    old, _, new = pair
    if not any(word in text for word in WORDS):
        assert new.encode_text(text) == old.encode_text(text)
        for place in ("start", "token", "text"):
            assert new.encode_batch([text], place) == old.encode_batch([text], place)


def test_expanding_twice(pair, tmp_path):
    old, made, new = pair
    again = tokens_impl.extend(new, ["新词语", *WORDS])
    assert list(again.pieces) == [old.vocab_size + len(made.pieces)]
    for text in ["新词语", *WORDS]:
        assert len(again.rust.encode(text, add_special_tokens=False).ids) == 1 or text in OLD
    assert again.rust.encode(OLD[0]).ids == old.rust.encode(OLD[0]).ids


def test_a_chat_in_pieces_has_the_ids_of_the_whole(pair):
    """New words don't break a text: what follows one in the next piece gets no space."""
    _, made, new = pair
    encoder = SegmentEncoder(new, "".join(CONTROLS))
    words = [word for id in made.pieces if (word := new.decode([id])) != "hyperword"]
    for word in words:
        for left, right in (("今天", f"{word}好"), (f"天{word}", "好"), ("天", word)):
            pieces = [(Piece(left, markup=False),), (Piece(right, markup=False),)]
            ids = encoder.encode_segments([(pieces[0], ()), (pieces[1], pieces[0])])
            assert [i for part in ids for i in part] == new.encode_text(left + right), (left, right)
