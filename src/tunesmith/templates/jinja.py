"""The model's own Jinja template: rendered as transformers does, then cut where inference cuts.

For every answer the chat is rendered twice: up to the answer with the generation prompt, which is
what inference sends, and with the answer, which shows how the template ends it. Strings of control
tokens inside content are rendered as marks, so that they are told apart from the template's own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from tunesmith.errors import DataError
from tunesmith.templates import export
from tunesmith.templates.base import Exchange, Template, Tools, no_end
from tunesmith.templates.outline import Outlines, Render, WatchedSandbox, can_be_watched
from tunesmith.templates.pieces import Piece
from tunesmith.templates.plain import as_dict, mapped, thought_of
from tunesmith.templates.sandbox import TemplateRefused, compile_template
from tunesmith.templates.tokenizer import Tokenizer
from tunesmith.types import Message, Text, Thinking, ToolCall

# Private-use characters: no template gives them a meaning; in content they are marked themselves.
_OPEN, _CLOSE, _START, _END = "\ue0f0", "\ue0f1", "\ue0f2", "\ue0f3"
_PROBE = {
    "type": "function",
    "function": {
        "name": "probe",
        "description": "Probes.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}
_MARK = re.compile(f"{_OPEN}(\\d+){_CLOSE}")
_BROKEN = re.compile(f"[{_OPEN}{_CLOSE}]|\\\\ue0f[01]")


class JinjaTemplate(Template):
    """A chat template in Jinja."""

    def __init__(self, name: str, source: str, tokenizer: Tokenizer):
        super().__init__(name, source, tokenizer)
        self.jinja = source
        try:
            self._compiled = compile_template(source)
            watchable = can_be_watched(source)
            watched = compile_template(source, WatchedSandbox) if watchable else None
        except TemplateRefused as error:
            raise _unusable(name, str(error)) from None
        # Marks of ours that content spells, raw or escaped, are hidden too.
        marks = f"[{_OPEN}-{_END}]|\\\\ue0f[0-3]"
        self.hidden = re.compile(f"{marks}|{self.encoder.control_pattern}")
        self.around = ("", "")
        self._no_tools: list[Any] | None = None
        self.text_arguments = False
        self.inline_thoughts = self._empty_system = False
        self._outlines: Outlines | None = None
        self._learn()
        if watched is not None:
            self._outlines = Outlines(self._rendering(self._compiled), self._rendering(watched))

    # ------------------------------------------------------------ what the template is like

    def _learn(self) -> None:
        """Renders a few chats, to learn how the template ends answers and what is odd about it."""
        ask, answer = Message.of("user", "Question?"), Message.of("assistant", "Answer.")
        try:
            self.run([as_dict(ask), as_dict(answer)], (), False)
        except DataError as error:
            # Templates for chats with tools may loop over them without asking whether there are.
            self._no_tools = []
            try:
                self.run([as_dict(ask), as_dict(answer)], (), False)
            except DataError:
                raise _unusable(self.name, error.why) from None
        thought = as_dict(Message("assistant", (Thinking("Reason"), Text("Answer."))))
        self.inline_thoughts = "Reason" not in self.run([as_dict(ask), thought], (), False)
        self._empty_system = self._has_default_system(ask)
        self.text_arguments = self._wants_text_arguments(ask)
        notes = ["it writes a date: always 26 Jul 2024"] if "strftime_now" in self.source else []
        self._learn_completion(_Chat(self, (ask, answer), ()), notes)
        self.rewrites_history = self._rewrites(ask, answer, ask, answer)
        if self.rewrites_history:
            notes.append("earlier turns change once later ones follow: each is its own example")
        elif self._rewrites(Message.of("system", "Be brief."), ask, answer, ask, answer):
            notes.append("the system prompt moves to the last turn: each turn is its own example")
        self.notes = tuple(notes)

    def _rewrites(self, *messages: Message) -> bool:
        """Whether a conversation takes more than one sequence."""
        try:
            return len(self._sequences(messages, ())) > 1
        except DataError:  # it may refuse a second turn, or a system prompt
            return False

    def _learn_completion(self, chat: _Chat, notes: list[str]) -> None:
        prompt, said, tail = chat.cut(1)
        before = said.partition("Answer.")[0]
        ends = chat.text(1)
        self.around = before, ends[ends.rfind("Answer.") + len("Answer.") :]
        self.answer_prefix = before if before.isspace() else ""
        if "<think>" in prompt[-20:] + before and "</think>" in before:
            notes.append("answers without reasoning are trained with an empty thought")
        ids = (self.tokenizer.added.get(tail), self.tokenizer.eos_id)
        self.stop_ids = tuple(dict.fromkeys(i for i in ids if i is not None))
        if tail not in self.tokenizer.added:
            self.stop_strings = (tail.strip(),)
            notes.append(f"answers end with {tail.strip()!r}, which is no token of this model")
        elif not self.around[1].strip():
            notes.append(f"the template puts no end marker after answers: {tail} is added")
        self.add_stops(export.stops(self.source))

    def _wants_text_arguments(self, ask: Message) -> bool:
        """Whether a call can be rendered only with its arguments as JSON text (functionary)."""
        call = Message("assistant", (ToolCall("probe", '{"a": 1}', "abcdefghi"),))
        for as_text in (False, True):
            chat = [as_dict(ask), as_dict(call, text_arguments=as_text)]
            try:
                self.run(chat, (_PROBE,), False)
            except DataError:
                continue
            return as_text
        return False

    def _has_default_system(self, ask: Message) -> bool:
        """Whether an empty system message gives less text than none at all."""
        try:
            empty = self.run([as_dict(Message.of("system", "")), as_dict(ask)], (), True)
        except DataError:
            return False
        return len(empty) < len(self.run([as_dict(ask)], (), True))

    # ------------------------------------------------------------ Template

    def _with_system(
        self, messages: tuple[Message, ...], system: str | None
    ) -> tuple[Message, ...]:
        if system is None or (messages and messages[0].role == "system"):
            return messages
        if not system and not self._empty_system:
            return messages
        return (Message.of("system", system), *messages)

    def _sequences(self, messages: tuple[Message, ...], tools: Tools) -> list[list[int | Exchange]]:
        chat = _Chat(self, messages, tools)
        made: list[list[int | Exchange]] = []
        so_far: list[Exchange] = []
        for index, message in enumerate(messages):
            if message.role != "assistant":
                continue
            chat.check_tools(index)
            history, prompt = chat.prompt(index)
            if not made or history != so_far:
                so_far = list(history)
                made.append(list(history))
            exchange = prompt, chat.answer(index)
            so_far.append(exchange)
            made[-1] += [exchange, index]
        return made

    def _prompt(
        self, messages: tuple[Message, ...], tools: Tools
    ) -> tuple[list[Exchange], tuple[Piece, ...]]:
        return _Chat(self, messages, tools).prompt(len(messages))

    # ------------------------------------------------------------ rendering

    def _rendering(self, compiled: Callable[..., str]) -> Render:
        """A compiled template as a function of a chat without tools."""
        named: dict[str, Any] = {"documents": None, **self.tokenizer.named}
        return lambda messages, generate, tools=None: compiled(
            messages=messages,
            tools=tools or self._no_tools,
            add_generation_prompt=generate,
            **named,
        )

    def run(self, messages: list[dict[str, Any]], tools: Any, generate: bool) -> str:
        """What the template writes.

        Raises:
            DataError: D302, it refuses the chat.
        """
        if self._outlines is not None and not tools:
            text = self._outlines.write(messages, generate)
            if text is not None:
                return text
        try:
            return self._rendering(self._compiled)(messages, generate, tools)
        except TemplateRefused as error:
            raise DataError(
                "D302",
                f"the chat template refuses this conversation: {error}",
                where=self.name,
                why=str(error),
                fix="change the row, or choose another data.template",
            ) from None


class _Chat:
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


def _unusable(name: str, why: str) -> DataError:
    what = f"the chat template can't be used: {why}"
    fix = "choose another with data.template"
    if why.endswith(" is undefined"):
        fix = f"it was written for a server that passes more than a chat; {fix}"
    return DataError("D301", what, where=name, fix=fix)
