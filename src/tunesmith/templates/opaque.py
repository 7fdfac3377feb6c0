"""Texts that a template may pass on but not look at: what it makes of them holds for all texts.

A template that only joins, trims and writes a message's content takes the same path through its
code whatever the content is. Rendered once with opaque texts, it shows the outline of all chats of
that shape: constant text with places for the contents, and no other chat has to be rendered.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

TRIMS = {"strip": str.strip, "lstrip": str.lstrip, "rstrip": str.rstrip}
_SILENT = frozenset(
    [
        "__new__",
        "__init__",
        "__class__",
        "__doc__",
        "__getattribute__",
        "__setattr__",
        "__delattr__",
        "__dir__",
        "__init_subclass__",
        "__subclasshook__",
        "__getnewargs__",
        "__reduce__",
        "__reduce_ex__",
        "__sizeof__",
        "__getstate__",
    ]
)
"""What Python asks of any object, and what tells nothing about the text."""


class Looked:
    """Whether any of some texts was looked at."""

    def __init__(self):
        self.yes = False


class Opaque(str):
    """A text that notes it when somebody looks at it.

    Args:
        text: What it is written as.
        looked: Where to note it.
        trimmed: What each way of trimming gives; None: it can't be trimmed unseen.
    """

    # Underscores keep templates out: the sandbox gives them no such attribute of any text.
    _looked: Looked
    _trimmed: dict[str, str] | None

    def __new__(cls, text: str, looked: Looked, trimmed: dict[str, str] | None = None) -> Opaque:
        made = super().__new__(cls, text)
        made._looked, made._trimmed = looked, trimmed
        return made

    def __add__(self, other: str) -> Opaque:
        return Opaque(plain(self) + plain(other), self._looked)

    def __radd__(self, other: str) -> Opaque:
        return Opaque(plain(other) + plain(self), self._looked)

    def note(self) -> None:
        """Somebody looks."""
        self._looked.yes = True

    def trim(self, name: str) -> Opaque | None:
        """Itself, trimmed in one of the ways of `TRIMS` unseen; None where that can't be."""
        if self._trimmed is None:
            return None
        text = self._trimmed[name]
        again = dict.fromkeys(TRIMS, text) if name == "strip" else None
        return Opaque(text, self._looked, again)

    @classmethod
    def of(cls, parts: Iterable[Any]) -> str:
        """All parts as one text, opaque if one of them is."""
        parts = list(parts)
        text = "".join(plain(part) if type(part) is cls else str(part) for part in parts)
        found = next((part for part in parts if type(part) is cls), None)
        return text if found is None else cls(text, found._looked)


def plain(text: str) -> str:
    """The text itself, unnoticed: only for writing it or joining it into another opaque one."""
    return str.__str__(text)


def look(value: Any) -> None:
    """Notes that opaque texts are looked at, wherever in a value they are."""
    if type(value) is Opaque:
        value.note()
    elif isinstance(value, dict):
        for item in value.values():
            look(item)
    elif isinstance(value, list | tuple):
        for item in value:
            look(item)


def _trimming(name: str) -> Any:
    def trim(self: Opaque, characters: str | None = None) -> str:
        made = self.trim(name) if characters is None else None
        if made is None:
            self.note()
            return TRIMS[name](self, characters)
        return made

    return trim


def _looking(name: str) -> Any:
    method = getattr(str, name)

    def run(self: Opaque, *args: Any, **kwargs: Any) -> Any:
        self.note()
        return method(self, *args, **kwargs)

    return run


for _name in dir(str):
    if _name in TRIMS:
        setattr(Opaque, _name, _trimming(_name))
    elif _name not in _SILENT and _name not in Opaque.__dict__:
        setattr(Opaque, _name, _looking(_name))
