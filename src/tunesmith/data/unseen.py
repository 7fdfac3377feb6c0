"""Characters that nobody sees, or that turn what stands around them around: shown as escapes."""

from __future__ import annotations

import json
import re

# Control, format and private characters, and those that end lines where no LF does; but not the
# joiners U+200C and U+200D, which words and emoji need, nor tabs and line breaks.
_UNSEEN = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u00ad\\u061c\\u180e\\u200b\\u200e\\u200f\\u2028-\\u202e"
    "\\u2060-\\u206f\\ud800-\\udfff\\ue000-\\uf8ff\\ufeff\\ufff9-\\ufffb\\U000e0000-\\U000e0fff]"
)

CONTROL = re.compile("[\u0001-\u0008\u000b\u000c\u000e-\u001f\u007f]")
"""Control characters that no text needs."""
HIDDEN = re.compile(
    "[\ufeff\u2060\u202a-\u202e\u2066-\u2069]|(?<![\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff])\u200b"
)
"""BOMs and what hides or turns text around; U+200B parts the words of Thai, Lao, Burmese and Khmer,
and is left there."""


def without(text: str) -> str:
    """The text without these; a form feed or vertical tab becomes the space that it stands for."""
    text = text.replace("\x0b", " ").replace("\x0c", " ")
    return HIDDEN.sub("", CONTROL.sub("", text))


def printable(text: str) -> str:
    """Data must not steer the terminal or turn text around: such characters are shown, not sent."""
    return _UNSEEN.sub(lambda found: _escape(found.group()), text)


def _escape(c: str) -> str:
    return f"\\x{ord(c):02x}" if ord(c) < 256 else f"\\u{ord(c):04x}"


def json_text(text: str) -> str:
    """A JSON document that says the same, with such characters of its strings as escapes."""
    return _UNSEEN.sub(lambda found: json.dumps(found.group())[1:-1], text)
