"""Constraints for requests: a JSON schema or a pattern, over the tokens of a tokenizer."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from tunesmith.errors import ConfigError
from tunesmith.generation import pattern_impl, schema_impl
from tunesmith.generation.grammar_impl import Constraint, Trie
from tunesmith.templates.tokenizers.bytelevel import letters

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
CHECKED = 97
"""So many tokens are decoded by the tokenizer itself, to see that they are spelled right."""
_SPELLED: WeakKeyDictionary[Any, tuple[list[bytes | None], Trie]] = WeakKeyDictionary()


def json_constraint(schema: Any, tokenizer: Any, stops: Sequence[int]) -> Constraint:
    """Keeps an answer within a JSON schema; None: any object.

    Args:
        schema: As `schema_impl` supports it.
        tokenizer: The model's.
        stops: Tokens that end an answer.

    Raises:
        ConfigError: G124, the tokenizer's tokens can't be spelled; G126, the schema.
    """
    return _constraint(schema_impl.grammar(schema), tokenizer, stops)


def pattern_constraint(pattern: str, tokenizer: Any, stops: Sequence[int]) -> Constraint:
    """Keeps an answer within a regular expression, as a whole.

    Raises:
        ConfigError: G124, the tokenizer's tokens can't be spelled; G125, the pattern.
    """
    return _constraint(pattern_impl.grammar(pattern), tokenizer, stops)


def _constraint(root: Any, tokenizer: Any, stops: Sequence[int]) -> Constraint:
    if tokenizer is None:
        raise ConfigError("G124", "a constraint needs a tokenizer")
    if not stops:
        raise ConfigError(
            "G124", "a constraint needs a stop token", why="Nothing else could end the answer."
        )
    if tokenizer not in _SPELLED:
        spelled = spellings(tokenizer)
        _SPELLED[tokenizer] = spelled, Trie.of(spelled)
    return Constraint(root, *_SPELLED[tokenizer], stops)


def spellings(tokenizer: Any) -> list[bytes | None]:
    """Bytes of each token within a text; None for special tokens and ids without a token.

    Raises:
        ConfigError: G124, its decoder does something else with them.
    """
    decoder = tokenizer.rust.decoder
    kinds = _kinds(json.loads(decoder.__getstate__())) if decoder is not None else set()
    known = {"ByteLevel", "ByteFallback", "Metaspace", "Replace", "Fuse", "Strip", "Sequence"}
    byte_of = {letter: byte for byte, letter in letters().items()}
    added = set(tokenizer.added.values())
    found: list[bytes | None] = []
    for id in range(tokenizer.vocab_size):
        piece = tokenizer.rust.id_to_token(id)
        if piece is None or id in tokenizer.special_ids:
            found.append(None)
        elif id in added:
            found.append(piece.encode())
        elif "ByteLevel" in kinds:
            plain = all(letter in byte_of for letter in piece)
            found.append(bytes(byte_of[c] for c in piece) if plain else piece.encode())
        elif "ByteFallback" in kinds and (byte := _BYTE.fullmatch(piece)):
            found.append(bytes([int(byte[1], 16)]))
        else:
            spaced = piece.replace("▁", " ") if kinds & {"Metaspace", "Replace"} else piece
            found.append(spaced.encode())
    if kinds - known or not _right(tokenizer, found):
        raise ConfigError(
            "G124",
            "answers of this tokenizer can't be constrained",
            why="Its decoder changes the text of tokens in a way that is not known here.",
        )
    return found


def _kinds(node: Any) -> set[str]:
    found = {node["type"]} if isinstance(node, dict) and "type" in node else set()
    for child in node.get("decoders", []) if isinstance(node, dict) else []:
        found |= _kinds(child)
    return found


def _right(tokenizer: Any, found: Sequence[bytes | None]) -> bool:
    """Whether tokens spread over the vocabulary decode to what they are said to spell."""
    plain = [id for id, spelling in enumerate(found) if spelling and _text(spelling)]
    if not plain:
        return False
    anchor = next((id for id in plain if (_text(found[id]) or " ").isalnum()), plain[0])
    before = tokenizer.decode([anchor])
    some = plain[:: max(1, len(plain) // CHECKED)]
    return all(tokenizer.decode([anchor, id]) == before + str(_text(found[id])) for id in some)


def _text(spelling: bytes | None) -> str | None:
    try:
        return spelling.decode() if spelling else None
    except UnicodeDecodeError:
        return None
