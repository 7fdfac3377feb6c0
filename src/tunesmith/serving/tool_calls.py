"""Tool calls in an answer, written the way the model's own template writes them.

The template is asked once how it writes a call; what stands before the JSON object marks calls in
answers. A template whose calls are no JSON object with name and arguments can't be read back, and
one that leaves the tools out can't tell the model of them: `tools` is refused with such models.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tunesmith.compose.answering import CallShape
from tunesmith.errors import DataError
from tunesmith.serving.cut_calls import KEYS
from tunesmith.templates.pieces import join
from tunesmith.types import Conversation, Message, ToolCall

if TYPE_CHECKING:
    from tunesmith.templates.base import Template

_NAME, _KEY = "probe_tool", "probe_key"
_PROBE: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "A probe.",
        "parameters": {"type": "object", "properties": {_KEY: {"type": "string"}}},
    },
}
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class CallFormat:
    """How calls look in an answer."""

    opening: str
    """What stands before the first call; `{` where nothing does."""
    marker: int | None = None
    """The control token that `opening` is, if it is one: decoded text leaves it out."""
    shape: CallShape = field(default_factory=CallShape)
    """How calls are written, for answers that must be calls."""

    def begin(self, text: str) -> int:
        """Where calls begin in an answer, or −1."""
        if self.opening == "{":
            stripped = text.lstrip()
            return len(text) - len(stripped) if stripped.startswith("{") else -1
        return text.find(self.opening)

    def certain(self, text: str) -> int:
        """How many characters of an unfinished answer are no call, whatever follows."""
        at = self.begin(text)
        if at >= 0:
            return at
        if self.opening == "{":
            return 0 if not text.strip() else len(text)
        longest = min(len(text), len(self.opening) - 1)
        ends = (n for n in range(longest, 0, -1) if text.endswith(self.opening[:n]))
        return len(text) - next(ends, 0)

    def parse(
        self, text: str, names: Sequence[str], *, several: bool = True
    ) -> tuple[str, list[ToolCall]]:
        """(what the answer says beside calls, its calls; the first alone if not `several`).

        An answer whose calls can't be read, or name none of the tools, is text and no call.
        """
        at = self.begin(text)
        if at < 0:
            return text, []
        calls: list[ToolCall] = []
        rest = text[at:]
        while (start := rest.find("{")) >= 0:
            try:
                value, end = _DECODER.raw_decode(rest, start)
            except (ValueError, RecursionError):
                return text, []
            call = _call(value)
            if call is None or call.name not in names:
                return text, []
            calls.append(call)
            rest = rest[end:] if several else ""
        return (text[:at].strip(), calls) if calls else (text, [])


def _call(value: Any) -> ToolCall | None:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    key = next((key for key in KEYS if isinstance(value.get(key), dict)), None)
    if key is None:
        return None
    return ToolCall(value["name"], json.dumps(value[key], ensure_ascii=False))


def learn(template: Template) -> CallFormat | None:
    """How a template writes calls; None if it can't tell of tools, or calls can't be read back."""
    user = Message.of("user", "Question?")
    try:
        plain = template.prompt_ids(Conversation((user,)))
        told = template.prompt_ids(Conversation((user,), (_PROBE,)))
        text = _written(template, 1)
    except DataError:
        return None
    at = _object_of_probe(text)
    if plain == told or at < 0:
        return None
    opening = text[:at].strip()
    tokenizer = template.tokenizer
    for token in sorted(tokenizer.added, key=len, reverse=True):
        if opening.startswith(token) and tokenizer.added[token] in tokenizer.special_ids:
            id = tokenizer.added[token]
            lead = text[:at].lstrip().removeprefix(token)
            return CallFormat(token, id, _shape(template, text, at, lead, id))
    shape = _shape(template, text, at, text[:at].lstrip(), None)
    return CallFormat(opening or "{", None, shape)


def _shape(template: Template, text: str, at: int, opening: str, marker: int | None) -> CallShape:
    """What stands around the probe's call, and between two of them.

    Args:
        template: The template.
        text: An answer with one call.
        at: Where its JSON object begins.
        opening: The text before it.
        marker: The control token before that.
    """
    call, end = _DECODER.raw_decode(text, at)
    try:
        two = _written(template, 2)
    except DataError:  # the template has one call an answer
        between = None
    else:
        second = _object_of_probe(two[end:])
        between = two[end : end + second] if second >= 0 else None
    if between is not None and _spells_control(template, between):
        between = None  # a grammar writes text alone
    closing = text[end:]
    tokenizer = template.tokenizer
    controls = [token for token, id in tokenizer.added.items() if id in tokenizer.special_ids]
    ends = [at for t in (*controls, *template.stop_strings) if (at := closing.find(t)) >= 0]
    closing = closing[: min(ends, default=0)].rstrip()
    key = next(key for key in KEYS if key in call)
    return CallShape(opening, marker, key, between, closing)


def _written(template: Template, count: int) -> str:
    """An answer with so many calls of the probe, as the template writes it.

    Raises:
        DataError: It refuses.
    """
    arguments = json.dumps({_KEY: "value"})
    calls = tuple(ToolCall(_NAME, arguments, f"call0000{at}") for at in range(count))
    talk = (Message.of("user", "Question?"), Message("assistant", calls))
    return join(template.render(Conversation(talk, (_PROBE,)))[-1][-1].completion)


def _spells_control(template: Template, text: str) -> bool:
    tokenizer = template.tokenizer
    return any(t in text and id in tokenizer.special_ids for t, id in tokenizer.added.items())


def _object_of_probe(text: str) -> int:
    """Where the JSON object of the probe's call begins, or −1."""
    at = text.find("{")
    while at >= 0:
        try:
            call = _call(_DECODER.raw_decode(text, at)[0])
        except ValueError:
            call = None
        if call is not None and call.name == _NAME:
            return at
        at = text.find("{", at + 1)
    return -1
