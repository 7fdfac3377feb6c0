"""Bytes of tokens, for byte-level and SentencePiece vocabularies."""

from __future__ import annotations

import pytest

from tunesmith.serving.token_texts import TokenTexts
from tunesmith.templates.tokenizer import Tokenizer

TEXT = "Ein Müller, 粉 und 🦉."


def test_bytes_of_tokens_spell_the_text(tiny_offer):
    texts = TokenTexts(tiny_offer.tokenizer)
    ids = tiny_offer.tokenizer.encode_text(TEXT)
    assert b"".join(map(texts.bytes, ids)).decode() == TEXT


def test_half_a_character_is_told_as_bytes(tiny_offer):
    texts = TokenTexts(tiny_offer.tokenizer)
    owl = tiny_offer.tokenizer.encode_text("🦉")
    assert len(owl) > 1
    assert texts.text(owl[0]).startswith("bytes:\\x")


def test_control_tokens_and_unknown_ids(tiny_offer):
    texts = TokenTexts(tiny_offer.tokenizer)
    assert texts.text(tiny_offer.tokenizer.added["<|im_end|>"]) == "<|im_end|>"
    assert texts.bytes(10**6) == b""


@pytest.mark.shared
def test_sentencepiece(shared_data):
    tokenizer = Tokenizer.load(shared_data / "models" / "stories260K" / "hf")
    texts = TokenTexts(tokenizer)
    ids = tokenizer.encode_text("Once upon a time, 粉")
    assert b"".join(map(texts.bytes, ids)).decode() == " Once upon a time, 粉"
