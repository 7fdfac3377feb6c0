"""How a chat template writes chats of one shape, learnt once and filled in for each chat.

See `opaque`. Control flow that contents can't touch is the same for all contents: the sandbox used
here notes every operation that looks at one, and what it can't note (a macro's text, a content
searched for in another text) rules a template out beforehand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, NamedTuple

from jinja2 import nodes
from jinja2.utils import Namespace

from tunesmith.templates.opaque import TRIMS, Looked, Opaque, look, plain
from tunesmith.templates.sandbox import JOINED, Sandbox, TemplateRefused, paid, written

MAX_SHAPES = 1024
LONG = 64 * 1024
"""Characters of a text above which the template is asked: its limits may refuse the text."""
_PLACE = re.compile("\ue0f4(\\d+)(|strip|lstrip|rstrip)\ue0f5")

Chat = Sequence[Mapping[str, Any]]
Render = Callable[..., str]
"""(messages, whether the generation prompt follows) → text."""

_CATCHING = (nodes.Macro, nodes.CallBlock, nodes.FilterBlock, nodes.AssignBlock, nodes.Block)
"""What makes an ordinary text of all that is written in it."""
_PASSING = frozenset(["trim", "default", "d", "first", "last", "list", "string", "length", "count"])
"""Filters that look at no text, or whose look a text notes itself."""


class WatchedSandbox(Sandbox):
    """The sandbox, noting which opaque texts are looked at."""

    def __init__(self):
        super().__init__()
        self.finalize = lambda value: written(plain(value) if type(value) is Opaque else value)
        ours = {name for name in self.filters if " " in name}
        self.filters = {
            name: function if name in _PASSING | ours else _noting(function)
            for name, function in self.filters.items()
        }
        self.filters[JOINED] = lambda *parts: paid(Opaque.of(parts))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        look([left, right])
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        if __obj not in (Namespace, dict):
            look([args, kwargs])
        return super().call(__context, __obj, *args, **kwargs)


def can_be_watched(source: str) -> bool:
    """Whether every look at a text in a template can be noted."""
    tree = Sandbox().parse(source)
    if next(tree.find_all(_CATCHING), None) is not None:
        return False
    if any(test.name == "in" for test in tree.find_all(nodes.Test)):
        return False
    return all(map(_searches_known, tree.find_all(nodes.Compare)))


def _searches_known(compared: nodes.Compare) -> bool:
    """Whether `x in y` looks for a constant, or in a list that is written out."""
    return all(
        operand.op not in ("in", "notin")
        or isinstance(compared.expr, nodes.Const)
        or isinstance(operand.expr, nodes.List | nodes.Tuple)
        for operand in compared.ops
    )


def _noting(function: Callable) -> Callable:
    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        look([args, kwargs])
        return function(*args, **kwargs)

    return run


class _Place(NamedTuple):
    """Where the content of a message stands."""

    index: int
    trim: str
    """How it is trimmed, empty: not at all."""


class Outlines:
    """The outlines of a template, by the roles of a chat.

    Args:
        render: Renders messages, with the generation prompt or without.
        watched: The same in a `WatchedSandbox`.
    """

    def __init__(self, render: Render, watched: Render):
        self._render, self._watched = render, watched
        self._known: dict[tuple[bool, tuple[str, ...]], list[str | _Place] | None] = {}

    def write(self, chat: Chat, generate: bool) -> str | None:
        """What the template makes of a chat; None where only rendering it can tell.

        Args:
            chat: Messages; only chats of nothing but roles and contents have outlines.
            generate: Whether the generation prompt follows.
        """
        if not all(len(message) == 2 and type(message.get("content")) is str for message in chat):
            return None
        shape = generate, tuple(message["role"] for message in chat)
        if shape not in self._known:
            if len(self._known) >= MAX_SHAPES:
                return None
            self._known[shape] = self._learn(*shape)
        outline = self._known[shape]
        if outline is None:
            return None
        text = _filled(outline, [message["content"] for message in chat])
        return text if len(text) <= LONG else None

    def _learn(self, generate: bool, roles: tuple[str, ...]) -> list[str | _Place] | None:
        looked = Looked()
        contents = [f" Content {index}.\n" for index in range(len(roles))]
        opaque = [_opaque(index, looked) for index in range(len(roles))]
        try:
            rendered = self._render(_chat(roles, contents), generate)
            outline = _parse(self._watched(_chat(roles, opaque), generate))
        except TemplateRefused:
            return None
        return None if looked.yes or _filled(outline, contents) != rendered else outline


def _chat(roles: Sequence[str], contents: Sequence[str]) -> list[dict[str, Any]]:
    pairs = zip(roles, contents, strict=True)
    return [{"role": role, "content": content} for role, content in pairs]


def _opaque(index: int, looked: Looked) -> Opaque:
    trimmed = {trim: f"\ue0f4{index}{trim}\ue0f5" for trim in TRIMS}
    return Opaque(f"\ue0f4{index}\ue0f5", looked, trimmed)


def _parse(text: str) -> list[str | _Place]:
    made: list[str | _Place] = []
    at = 0
    for found in _PLACE.finditer(text):
        made += [text[at : found.start()], _Place(int(found[1]), found[2])]
        at = found.end()
    return [*made, text[at:]]


def _filled(outline: Sequence[str | _Place], contents: Sequence[str]) -> str:
    return "".join(
        part if isinstance(part, str) else _content(contents[part.index], part.trim)
        for part in outline
    )


def _content(text: str, trim: str) -> str:
    return TRIMS[trim](text) if trim else text
