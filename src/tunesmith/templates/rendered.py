"""A chat as a Jinja template renders it, cut where inference cuts.

For every answer the chat is rendered twice: up to the answer with the generation prompt, which is
what inference sends, and with the answer, which shows how the template ends it. Strings of control
tokens inside content are rendered as marks, so that they are told apart from the template's own.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from tunesmith.errors import DataError
from tunesmith.templates.base import Exchange, Tools, no_end
from tunesmith.templates.pieces import Piece
from tunesmith.templates.plain import as_dict, mapped, thought_of
from tunesmith.types import Message

if TYPE_CHECKING:
    from tunesmith.templates.jinja import JinjaTemplate

# Private-use characters: no template gives them a meaning; in content they are marked themselves.
_OPEN, _CLOSE, _START, _END = "\ue0f0", "\ue0f1", "\ue0f2", "\ue0f3"
MARKS = f"[{_OPEN}-{_END}]|\\\\ue0f[0-3]"
"""Marks of ours, raw or escaped, as content may spell them: they are hidden too."""
_MARK = re.compile(f"{_OPEN}(\\d+){_CLOSE}")
_BROKEN = re.compile(f"[{_OPEN}{_CLOSE}]|\\\\ue0f[01]")


class RenderedChat:
    """One conversation being cut; remembers the texts it has rendered."""

    def __init__(self, template: JinjaTemplate, messages: tuple[Message, ...], tools: Tools):
        self.template = template
        self.messages = messages
        self.strings: list[str] = []
        """Strings of content that stand behind marks."""
        self.plain = [
            as_dict(m, self._hide, template.inline_thoughts, template.text_arguments)
            for m in messages
        ]
        self.tools = [mapped(dict(tool), self._hide) for tool in tools]
        self._prompts: dict[int, str] = {}
        self._cuts: dict[int, tuple[str, str, str]] = {}

    def _hide(self, text: str) -> str:
        def mark(found: re.Match[str]) -> str:
            self.strings.append(found.group())
            return f"{_OPEN}{len(self.strings) - 1}{_CLOSE}"

        return self.template.hidden.sub(mark, text)

    def pieces(self, text: str) -> tuple[Piece, ...]:
        """Rendered text with the strings behind marks back, as content."""
        if not self.strings:
            return (Piece(text, True),) if text else ()
        parts = _MARK.split(text)
        if any(map(_BROKEN.search, parts[::2])):
            raise DataError(
                "D305",
                "the conversation spells a control token where the chat template hides it",
                where=self.template.name,
                fix="remove the token's string from the row, or use data.on_bad_row=skip",
            )
        made = [
            Piece(self.strings[int(part)], False) if odd % 2 else Piece(part, True)
            for odd, part in enumerate(parts)
        ]
        return tuple(piece for piece in made if piece.text)

    def before(self, index: int) -> str:
        """What inference sends for the message at `index`."""
        if index not in self._prompts:
            run = self.template.run
            self._prompts[index] = run(self.plain[:index], self.tools, True)
        return self._prompts[index]

    def prompt(self, index: int) -> tuple[list[Exchange], tuple[Piece, ...]]:
        """Earlier exchanges that still look as they were sent and answered; the prompt after."""
        text, at = self.before(index), 0
        history = []
        for earlier, message in enumerate(self.messages[:index]):
            if message.role != "assistant":
                continue
            sent, said, end = self.cut(earlier)
            if len(sent) < at or not text.startswith(sent + said + end):
                continue
            history.append((self.pieces(sent[at:]), self.answer(earlier)))
            at = len(sent) + len(said) + len(end)
        return history, self.pieces(text[at:])

    def cut(self, index: int) -> tuple[str, str, str]:
        """What inference sends for the answer at `index`, the answer, and its end marker."""
        if index not in self._cuts:
            self._cuts[index] = self.before(index), *self._completion(index)
        return self._cuts[index]

    def answer(self, index: int) -> tuple[Piece, ...]:
        """The answer at `index` as pieces, its end marker the last one."""
        _, said, end = self.cut(index)
        return (*self.pieces(said), Piece(end, True))

    def check_tools(self, index: int) -> None:
        """Refuses a chat whose tools, or whose calls in the answer at `index`, the template drops.

        Raises:
            DataError: D302.
        """
        called = self.plain[index].get("tool_calls", ())
        if not self.tools and not called:
            return
        sent, said, _ = self.cut(index)
        named = [tool.get("function", tool).get("name", "") for tool in self.tools]
        calls = [call["function"]["name"] for call in called]
        lost = [n for n in named if n not in sent] or [n for n in calls if n not in said]
        if lost:
            raise DataError(
                "D302",
                f"the chat template drops the tool or call `{lost[0]}`",
                where=self.template.name,
                why="What is called would not be trained, or what may be called would not be said.",
                fix="choose a data.template that knows tools, or leave them out of the rows",
            )

    def text(self, index: int) -> str:
        """The chat up to and with the answer at `index`."""
        return self.template.run(self.plain[: index + 1], self.tools, False)

    def _completion(self, index: int) -> tuple[str, str]:
        """The answer at `index` as the model is to write it after what inference sends, and what
        ends it: the first control token, else the template's text after the answer, else EOS."""
        template, sent = self.template, self.before(index)
        text = self.text(index)
        if text.startswith(sent):
            begin, first = len(sent), ""
            stop = self._stop_at_once(index, text, begin) or self._locate(index, text)[1]
        else:
            start, stop = self._locate(index, text)
            begin, first = self._begin_anew(index, sent, text, start)
        after = max(begin, stop or 0, self._last_call(index, text))
        found = template.encoder.find_control(text, after)
        if found:
            return first + text[begin : found.start()], found.group()
        if text[after:].strip():
            return first + text[begin:after], text[after:].rstrip()
        if not template.tokenizer.eos:
            raise no_end(template.name)
        return first + text[begin:after], template.tokenizer.eos

    def _stop_at_once(self, index: int, text: str, begin: int) -> int | None:
        """Where the answer's words end if they stand as those of the first chat ever rendered."""
        before, tail = self.template.around
        plain = self.plain[index]
        if len(plain) > 2:
            return None
        for words in (plain["content"], plain["content"].strip()):
            if text[begin:] == before + words + tail:
                return len(text) - len(tail)
        return None

    def _locate(self, index: int, text: str) -> tuple[int | None, int | None]:
        """Where the answer's words begin and end in a text that ends with it.

        Learnt by rendering once more with marks around them; None where a mark does not come out.
        """
        words = self.plain[index]["content"].strip()
        if not words:
            return None, None
        before, after = self.plain[index]["content"].split(words, 1)
        marked = {**self.plain[index], "content": f"{before}{_START}{words}{_END}{after}"}
        found = self.template.run([*self.plain[:index], marked], self.tools, False)
        start, stop = found.find(_START), found.find(_END)
        if found.replace(_START, "").replace(_END, "") == text:
            return (start if start >= 0 else None, stop - (start >= 0) if stop >= 0 else None)
        # The template looks at the words themselves; what is left of them is found by looking.
        at = text.rfind(words)
        return (at, at + len(words)) if at >= 0 else (None, None)

    def _begin_anew(self, index: int, sent: str, text: str, start: int | None) -> tuple[int, str]:
        """Where an answer begins in a chat that does not begin with what inference sends, and what
        the completion says before that.

        If the prompt opens a thought, the completion closes it, with the message's reasoning or
        empty. Else the completion begins with the message's own words.
        """
        common = _common(sent, text)
        if start is not None:  # an answer's own `<` is no part of the `<think>` that was sent
            common = min(common, start)
        opened = sent[common:]
        begin = common if start is None else start
        if text[begin:].strip() == "":
            raise DataError(
                "D302",
                "the chat template leaves this answer out",
                where=self.template.name,
                fix="change the row, or choose another data.template",
            )
        if "<think>" not in opened or "</think>" in opened:
            return begin, ""
        thought, words = thought_of(self.plain[index])
        if start is not None and text.startswith("<think>", start):
            begin = text.index(words, start) if words in text[start:] else start
        begin += len(text[begin:]) - len(text[begin:].lstrip("\n"))
        return begin, f"{thought}\n</think>\n\n"

    def _last_call(self, index: int, text: str) -> int:
        """End of the last tool call's name or last argument, wherever the template put them."""
        ends = [0]
        text = self.template.encoder.blank_controls(text)  # `m` is no part of `<|im_end|>`
        for call in self.plain[index].get("tool_calls", ()):
            arguments = call["function"]["arguments"]
            values = list(arguments.values())[-1:] if isinstance(arguments, dict) else [arguments]
            written = [v if isinstance(v, str) else json.dumps(v) for v in values]
            quoted = [json.dumps(w, ensure_ascii=False) for w in written]
            for word in (call["function"]["name"], *written, *quoted):
                at = text.rfind(word) if word else -1
                ends.append(at + len(word) if at >= 0 else 0)
        return max(ends)


def _common(one: str, other: str) -> int:
    """Length of the longest common beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
