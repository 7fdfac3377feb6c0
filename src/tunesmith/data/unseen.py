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


def printable(text: str) -> str:
    """Data must not steer the terminal or turn text around: such characters are shown, not sent."""
    return _UNSEEN.sub(lambda found: _escape(found.group()), text)


def _escape(c: str) -> str:
    return f"\\x{ord(c):02x}" if ord(c) < 256 else f"\\u{ord(c):04x}"


def json_text(text: str) -> str:
    """A JSON document that says the same, with such characters of its strings as escapes."""
    return _UNSEEN.sub(lambda found: json.dumps(found.group())[1:-1], text)
