"""Bytes of unknown encoding to lines of text, and text that was decoded wrongly made whole.

UTF-8 is tried first and believed. What is no UTF-8 is told apart by its bytes: those of Chinese
text come in pairs, those of European text alone among letters.
"""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO

BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# GB2312's punctuation and its 3,755 common characters; pairs of European letters lie elsewhere.
_PAIR = re.compile(rb"[\xa1-\xa3\xb0-\xd7][\xa1-\xfe]")
_HIGH = re.compile(rb"[\x80-\xff]")
# What UTF-8 looks like when it is read as Windows-1252: a lead byte and what follows it.
_MOJIBAKE = re.compile("[\u00c2-\u00f4][\u0080-\u00bf\u2013-\u203a\u20ac\u0152-\u0192\u02c6\u02dc]")


def lines(stream: BinaryIO, repairs: Counter[str]) -> Iterator[tuple[int, str]]:
    """(line number from 1, text without line end) of all lines, whatever they are encoded in.

    Args:
        stream: Bytes of a file, at its beginning.
        repairs: Counts what was mended, by kind.
    """
    head = stream.read(4)
    stream.seek(0)
    for bom, encoding in BOMS:
        if head.startswith(bom):
            repairs[f"{encoding.upper()} → UTF-8"] += 1
            yield from _wide_lines(stream, encoding, repairs)
            return
    for number, raw in enumerate(stream, 1):
        if number == 1 and raw.startswith(codecs.BOM_UTF8):
            raw = raw.removeprefix(codecs.BOM_UTF8)
            repairs["BOM removed"] += 1
        yield number, _cleaned(_decoded(raw, repairs), repairs)


def _wide_lines(
    stream: BinaryIO, encoding: str, repairs: Counter[str]
) -> Iterator[tuple[int, str]]:
    reader = codecs.getreader(encoding)(stream, "replace")
    number = 0
    kept = ""
    while chunk := reader.read(1 << 20):
        *whole, kept = (kept + chunk).split("\n")
        for text in whole:
            number += 1
            yield number, _cleaned(text + "\n", repairs)
    if kept:
        yield number + 1, _cleaned(kept, repairs)


def _decoded(raw: bytes, repairs: Counter[str]) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        pass
    for encoding in _candidates(raw):
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        repairs[f"{encoding.upper()} → UTF-8"] += 1
        return text
    repairs["LATIN-1 → UTF-8"] += 1
    return raw.decode("latin-1")


def _candidates(raw: bytes) -> tuple[str, str]:
    """GB18030 first where most bytes above ASCII stand in pairs."""
    paired = 2 * len(_PAIR.findall(raw))
    chinese = paired > 0.7 * len(_HIGH.findall(raw))
    return ("gb18030", "cp1252") if chinese else ("cp1252", "gb18030")


def _cleaned(text: str, repairs: Counter[str]) -> str:
    if text.endswith("\r\n"):
        repairs["CRLF → LF"] += 1
    text = text.rstrip("\r\n")
    if "\0" in text:
        repairs["NUL removed"] += 1
        text = text.replace("\0", "")
    return text


def is_mojibake(text: str) -> bool:
    """Whether a text looks like UTF-8 that was read as Windows-1252 (`Ã©` for `é`), and can be
    undone without loss."""
    return unmangled(text) != text


def unmangled(text: str) -> str:
    """The text that was meant, if every character of it can be undone; else the text itself."""
    if not _MOJIBAKE.search(text):
        return text
    try:
        return _as_windows(text).decode()
    except (UnicodeEncodeError, UnicodeDecodeError):
        return text


def _as_windows(text: str) -> bytes:
    """Windows-1252, with its five undefined bytes as the control characters browsers make them."""
    made = bytearray()
    for character in text:
        try:
            made += character.encode("cp1252")
        except UnicodeEncodeError:
            made += character.encode("latin-1")
    return bytes(made)
