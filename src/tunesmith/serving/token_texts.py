"""What single tokens spell, as text and as bytes, and where they stand: for log-probabilities.

A token may hold half a character; then its bytes are told, as OpenAI does: `bytes:\\xe4\\xbd`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from tunesmith.generation.base import TextStream

if TYPE_CHECKING:
    from tunesmith.templates.tokenizer import Tokenizer

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class TokenTexts:
    """Text and bytes of each id of a tokenizer."""

    def __init__(self, tokenizer: Tokenizer):
        self._rust = tokenizer.rust
        self._added = {id: text for text, id in tokenizer.added.items()}
        spec = json.loads(tokenizer.rust.to_str())
        shape = json.dumps([spec.get("decoder"), spec.get("pre_tokenizer")])
        self._byte_level = '"ByteLevel"' in shape
        self.longest = max(map(len, tokenizer.rust.get_vocab(with_added_tokens=True)), default=1)
        """Characters of the longest token: more text than that a token can't hold."""
        self.size = tokenizer.vocab_size

    def bytes(self, id: int) -> bytes:
        """What a token spells; nothing for an id that the tokenizer doesn't know."""
        if id in self._added:
            return self._added[id].encode()
        piece = self._rust.id_to_token(id)
        if piece is None:
            return b""
        if self._byte_level:
            table = _byte_table()
            if all(character in table for character in piece):
                return bytes(table[character] for character in piece)
            return piece.encode()
        found = _BYTE.fullmatch(piece)
        return bytes([int(found[1], 16)]) if found else piece.replace("\u2581", " ").encode()

    def text(self, id: int) -> str:
        """What a token spells, or its bytes where they are no text."""
        raw = self.bytes(id)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


class Offsets:
    """Where tokens begin in the text they are part of.

    Control tokens take no room in it, half a character begins where the whole one does, and the
    space that some tokenizers put before the very first word is not there.

    Args:
        tokenizer: Decodes.
        before: Tokens in front of the text.
        start: Where the text begins.
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int], start: int = 0):
        self._stream = TextStream(tokenizer, before)
        self._at = start

    def of(self, ids: Iterable[int]) -> list[int]:
        """The places of the next tokens."""
        found = []
        for id in ids:
            found.append(self._at)
            self._at += len(self._stream.step(id)[0])
        return found


@lru_cache
def _byte_table() -> dict[str, int]:
    """GPT-2's characters for bytes (encoder.py of openai/gpt-2, `bytes_to_unicode`)."""
    shown = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    table = {chr(byte): byte for byte in shown}
    hidden = [byte for byte in range(256) if byte not in shown]
    return table | {chr(256 + at): byte for at, byte in enumerate(hidden)}
