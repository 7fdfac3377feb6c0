"""The model's own Jinja template: rendered as transformers does, then cut where inference cuts."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from tunesmith.errors import DataError
from tunesmith.templates import export
from tunesmith.templates.base import Exchange, Template, Tools
from tunesmith.templates.outline import Outlines, Render, WatchedSandbox, can_be_watched
from tunesmith.templates.pieces import Piece
from tunesmith.templates.plain import as_dict
from tunesmith.templates.rendered import MARKS, RenderedChat
from tunesmith.templates.sandbox import TemplateRefused, compile_template
from tunesmith.templates.tokenizer import Tokenizer
from tunesmith.types import Message, Text, Thinking, ToolCall

_PROBE = {
    "type": "function",
    "function": {
        "name": "probe",
        "description": "Probes.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}


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
        self.hidden = re.compile(f"{MARKS}|{self.encoder.control_pattern}")
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
        reasoned = Message("assistant", (Thinking("Reason"), Text("Answer.")))
        self.inline_thoughts = "Reason" not in self.run(
            [as_dict(ask), as_dict(reasoned)], (), False
        )
        self._empty_system = self._has_default_system(ask)
        self.text_arguments = self._wants_text_arguments(ask)
        notes = ["it writes a date: always 26 Jul 2024"] if "strftime_now" in self.source else []
        self._learn_completion(RenderedChat(self, (ask, answer), ()), notes)
        self.rewrites_history = self._rewrites(ask, answer, ask, answer)
        if self.rewrites_history:
            notes.append("this template rewrites history: one example per trained turn")
        elif self._rewrites(Message.of("system", "Be brief."), ask, answer, ask, answer):
            notes.append("the system prompt moves to the last turn: each turn is its own example")
        elif self._rewrites(ask, reasoned, ask, reasoned):
            notes.append("this template drops earlier reasoning: then one example per trained turn")
        self.notes = tuple(notes)

    def _rewrites(self, *messages: Message) -> bool:
        """Whether a conversation takes more than one sequence."""
        try:
            return len(self._sequences(messages, ())) > 1
        except DataError:  # it may refuse a second turn, or a system prompt
            return False

    def _learn_completion(self, chat: RenderedChat, notes: list[str]) -> None:
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
        chat = RenderedChat(self, messages, tools)
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
        return RenderedChat(self, messages, tools).prompt(len(messages))

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


def _unusable(name: str, why: str) -> DataError:
    what = f"the chat template can't be used: {why}"
    fix = "choose another with data.template"
    if why.endswith(" is undefined"):
        fix = f"it was written for a server that passes more than a chat; {fix}"
    return DataError("D301", what, where=name, fix=fix)
