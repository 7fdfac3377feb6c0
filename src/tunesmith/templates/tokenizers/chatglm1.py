"""ChatGLM 1: a SentencePiece model, and a rewriting of white space that stands in its code.

Before SentencePiece a line break becomes `<n>`, a tab `<|tab|>`, and two to eighty blanks one of
`<|blank_2|>` … `<|blank_80|>`; after decoding they are put back. Ids are those of the .model behind
those of the image tokens (`num_image_tokens`), of which later versions have none.
Source: tokenization_chatglm.py of THUDM/chatglm-6b.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from tokenizers import Tokenizer as Rust, decoders, normalizers

from tunesmith.templates.tokenizers import sentencepiece
from tunesmith.templates.tokenizers.special import Given

LONGEST = 80
"""Blanks that one token stands for, at most."""
IMAGES = 20_000
"""Image tokens, where tokenizer_config.json doesn't say."""
_WHITE = {"\n": "<n>", "\t": "<|tab|>"}


def is_one(model: sentencepiece.Model) -> bool:
    """Whether this is ChatGLM 1's model: no other has pieces for runs of blanks so named."""
    return any(piece.text == "<|blank_2|>" for piece in model.pieces)


def convert(model: sentencepiece.Model, given: Given) -> tuple[Rust, list[str]]:
    """The tokenizer that gives the ids of its code.

    Args:
        model: The .model.
        given: What stands beside it; without any tokenizer_config.json there are no image tokens.

    Raises:
        EnvironmentFault: E223, see `sentencepiece.convert`.
    """
    count = int(given.config.get("num_image_tokens", IMAGES)) if given.config else 0
    images = [
        sentencepiece.Piece(f"<image_{id}>", type=sentencepiece.CONTROL) for id in range(count)
    ]
    ids = {name: id + count if id >= 0 else id for name, id in model.ids.items()}
    shifted = dataclasses.replace(model, pieces=[*images, *model.pieces], ids=ids)
    rust, notes = sentencepiece.convert(shifted)
    runs = {" " * n: f"<|blank_{n}|>" for n in range(LONGEST, 1, -1)}  # the longest first
    known = {piece.text for piece in model.pieces}
    pairs = [(text, piece) for text, piece in {**_WHITE, **runs}.items() if piece in known]
    before: list[Any] = [normalizers.Replace(text, piece) for text, piece in pairs]
    after: list[Any] = [decoders.Replace(piece, text) for text, piece in pairs]
    rust.normalizer = normalizers.Sequence([*before, rust.normalizer])
    rust.decoder = decoders.Sequence([rust.decoder, *after])
    told = f"{count:,} image tokens come first" if count else "there are no image tokens"
    notes.append(f"ChatGLM 1: {told}; texts don't end in [gMASK]<sop>, which templates write")
    return rust, notes
