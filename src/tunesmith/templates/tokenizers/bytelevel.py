"""Byte-level BPE from tiktoken's ranks, or from GPT-2's vocab.json and merges.txt."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from tokenizers import Tokenizer as Rust, decoders, models

from tunesmith.templates.tokenizers.faults import unreadable
from tunesmith.templates.tokenizers.patterns import Split

_RANK_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\s*\Z")

_SPECIAL = re.compile(r"<.*>|\[.*\]")


def looks_like_ranks(head: bytes) -> bool:
    """Whether a file begins as tiktoken's do: base64, a space, a number."""
    return _RANK_LINE.match(head.split(b"\n", 1)[0]) is not None


def read_ranks(file: Path) -> dict[bytes, int]:
    """Ranks of tokens in a `.tiktoken` file.

    Raises:
        EnvironmentFault: E221, a line is not base64 and a number, or ranks are missing.
    """
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise unreadable(file, f"line {number}: {error}") from None
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise unreadable(file, "the ranks have gaps or stand twice")
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise unreadable(file, f"{len(missing)} of the 256 bytes have no rank")
    return ranks


def from_ranks(ranks: Mapping[bytes, int], split: Split) -> Rust:
    """The tokenizer of tiktoken's ranks.

    tiktoken merges any two neighbours that are a token together, that of the lowest rank first. So
    every way to halve a token is a merge, in the order of ranks.
    """
    letter = letters()
    word = {token: "".join(letter[byte] for byte in token) for token in ranks}
    merges: list[tuple[str, str]] = []
    for token, _ in sorted(ranks.items(), key=lambda pair: pair[1]):
        halves = [(token[:i], token[i:]) for i in range(1, len(token))]
        found = [(a, b) for a, b in halves if a in ranks and b in ranks]
        found.sort(key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
        merges += [(word[a], word[b]) for a, b in found]
    return build({word[token]: rank for token, rank in ranks.items()}, merges, split)


def read_vocabulary(vocabulary: Path, merges: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Tokens and merges of a vocab.json and a merges.txt.

    Raises:
        EnvironmentFault: E221, one of them can't be read.
    """
    try:
        tokens = json.loads(vocabulary.read_text(encoding="utf-8"))
    except ValueError as error:
        raise unreadable(vocabulary, error) from None
    if not isinstance(tokens, dict) or not all(type(id) is int for id in tokens.values()):
        raise unreadable(vocabulary, "it is no object of tokens and ids")
    try:
        lines = merges.read_text(encoding="utf-8").split("\n")
    except ValueError as error:
        raise unreadable(merges, error) from None
    pairs = split_merges(lines, tokens, merges)
    made = {left + right for left, right in pairs}
    longer = {t for t in tokens if len(t) > 1 and not _SPECIAL.fullmatch(t)}
    if len(longer - made) > len(longer) // 2:
        missing = len(longer - made)
        raise unreadable(merges, f"{missing} of {len(longer)} tokens are built by no merge")
    return tokens, pairs


def split_merges(
    lines: Iterable[str], tokens: Mapping[str, int], file: Path
) -> list[tuple[str, str]]:
    """`a b` → (a, b), checked against the vocabulary.

    Raises:
        EnvironmentFault: E221, a line is no merge, or of tokens that are not in the vocabulary.
    """
    found: list[tuple[str, str]] = []
    for number, line in enumerate(lines, 1):
        text = line.rstrip("\r")
        if not text or (number == 1 and text.startswith("#version")):
            continue
        left, space, right = text.partition(" ")
        if not space or not {left, right, left + right} <= tokens.keys():
            raise unreadable(file, f"merge {number} ({text!r}) is none of its vocabulary's")
        found.append((left, right))
    return found


def build(
    tokens: Mapping[str, int],
    merges: list[tuple[str, str]],
    split: Split,
    *,
    add_prefix_space: bool = False,
) -> Rust:
    """A byte-level BPE tokenizer; its tokens are written in the letters of `letters`."""
    rust = Rust(models.BPE(dict(tokens), merges, ignore_merges=split.whole_words))
    if split.nfc:
        rust.normalizer = split.normalizer()
    rust.pre_tokenizer = split.pre_tokenizer(add_prefix_space)
    rust.decoder = decoders.ByteLevel()
    return rust


def letters() -> dict[int, str]:
    """The printable letter that stands for each byte.

    Source: `bytes_to_unicode` of GPT-2's encoder.py.
    """
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {b: chr(b) for b in plain} | {b: chr(256 + i) for i, b in enumerate(others)}
