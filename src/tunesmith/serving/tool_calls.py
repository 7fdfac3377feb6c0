"""Tool calls in an answer, written the way the model's own template writes them.

The template is asked once how it writes a call; what stands before the JSON object marks calls in
answers. A template whose calls are no JSON object with name and arguments can't be read back, and
one that leaves the tools out can't tell the model of them: `tools` is refused with such models.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunesmith.errors import DataError
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
_KEYS = ("arguments", "parameters")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class CallFormat:
    """How calls look in an answer."""

    opening: str
    """What stands before the first call; `{` where nothing does."""
    marker: int | None = None
    """The control token that `opening` is, if it is one: decoded text leaves it out."""

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

    def parse(self, text: str, names: Sequence[str]) -> tuple[str, list[ToolCall]]:
        """(what the answer says beside calls, its calls).

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
            rest = rest[end:]
        return (text[:at].strip(), calls) if calls else (text, [])


def _call(value: Any) -> ToolCall | None:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    key = next((key for key in _KEYS if isinstance(value.get(key), dict)), None)
    if key is None:
        return None
    return ToolCall(value["name"], json.dumps(value[key], ensure_ascii=False))


def learn(template: Template) -> CallFormat | None:
    """How a template writes calls; None if it can't tell of tools, or calls can't be read back."""
    user = Message.of("user", "Question?")
    answer = Message("assistant", (ToolCall(_NAME, json.dumps({_KEY: "value"}), "call00000"),))
    try:
        plain = template.prompt_ids(Conversation((user,)))
        told = template.prompt_ids(Conversation((user,), (_PROBE,)))
        turns = template.render(Conversation((user, answer), (_PROBE,)))
    except DataError:
        return None
    if plain == told:
        return None
    text = join(turns[-1][-1].completion)
    at = _object_of_probe(text)
    if at < 0:
        return None
    opening = text[:at].strip()
    tokenizer = template.tokenizer
    for token in sorted(tokenizer.added, key=len, reverse=True):
        if opening.startswith(token) and tokenizer.added[token] in tokenizer.special_ids:
            return CallFormat(token, tokenizer.added[token])
    return CallFormat(opening or "{")


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
