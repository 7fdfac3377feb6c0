"""Chat formats that a few strings describe: the .toml files of this folder."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tunesmith.errors import DataError
from tunesmith.templates import calls, export, formats
from tunesmith.templates.base import Exchange, Template, Tools, no_end
from tunesmith.templates.formats import Format, split
from tunesmith.templates.pieces import Piece
from tunesmith.templates.tokenizer import Tokenizer
from tunesmith.types import Message, Thinking, ToolCall

_TOKEN = re.compile(r"<\|[^|<>\s]+\|>")
_Numbered = Sequence[tuple[int, Message]]
"""Messages that are rendered together, each with its index in the conversation."""


class StringTemplate(Template):
    """A chat format written as strings."""

    def __init__(self, name: str, source: str, tokenizer: Tokenizer, variant: str = ""):
        format = self.format = formats.read(name, source, variant)
        name = f"{name}@{variant}" if variant else name
        super().__init__(name, formats.canonical(format), tokenizer)
        self.end, self.notes = _end(name, format, tokenizer)
        call_end = format.tools.end if format.tools else ""
        self.call_end = call_end if call_end in tokenizer.added else self.end
        self.bos = tokenizer.bos if _writes_bos(format, tokenizer) else ""
        self.between = format.separator + (self.bos if format.bos == "each_turn" else "")
        # What the end of an answer has already written of the next message of the user.
        self.opened = self.end if format.end_opens_user and self.end == format.end else ""
        self.opened = self.opened if format.user.startswith(self.opened) else ""
        self._begin, self._between = (
            Piece(self.bos + format.prefix, True),
            Piece(self.between, True),
        )
        self._system, self._thinking = _parts(format.system), _parts(format.thinking)
        self._user = split(format.user)
        self._assistant = Piece(format.assistant, True)
        before, after = split(format.answer)
        self._answer = Piece(before, True)
        self._end, self._call_end = (
            Piece(after + self.end, True),
            Piece(after + self.call_end, True),
        )
        self.answer_prefix = before if before.isspace() else ""
        ends = tokenizer.added.get(self.end), tokenizer.eos_id
        self.stop_ids = tuple(dict.fromkeys(i for i in ends if i is not None))
        self.add_stops([*format.stop_strings, *([call_end] if call_end else [])])
        self.rewrites_history = not format.history
        if self.rewrites_history:
            said = "this template shows no history: one example per round"
            self.notes = (*self.notes, said)
        self.jinja = self.jinja_for(None)

    def jinja_for(self, system: str | None) -> str:
        """The same format in Jinja, with a default system prompt (None: the format's own)."""
        default = self.format.default_system if system is None else system
        return export.jinja(self, default)

    def _with_system(
        self, messages: tuple[Message, ...], system: str | None
    ) -> tuple[Message, ...]:
        if messages and messages[0].role == "system":
            return messages
        text = self.format.default_system if system is None else system
        return (Message.of("system", text), *messages) if text else messages

    def _sequences(self, messages: tuple[Message, ...], tools: Tools) -> list[list[int | Exchange]]:
        made: list[list[int | Exchange]] = []
        for part in self._shown_together(messages):
            exchanges, _ = self._walk(part, tools)
            answers = [index for index, message in part if message.role == "assistant"]
            made.append([e for pair in zip(exchanges, answers, strict=True) for e in pair])
        return made

    def _prompt(
        self, messages: tuple[Message, ...], tools: Tools
    ) -> tuple[list[Exchange], tuple[Piece, ...]]:
        history, prompt = self._walk(self._shown_together(messages)[-1], tools)
        return history, (*prompt, self._assistant)

    def _shown_together(self, messages: tuple[Message, ...]) -> list[_Numbered]:
        """All messages; or, in a format without history, each round with the system prompt."""
        numbered = list(enumerate(messages))
        if self.format.history:
            return [numbered]
        front = [pair for pair in numbered[:1] if pair[1].role == "system"]
        rounds: list[list[tuple[int, Message]]] = []
        before = "assistant"
        for index, message in numbered[len(front) :]:
            if not rounds or (message.role == "user" and before != "user"):
                rounds.append([])
            rounds[-1].append((index, message))
            before = message.role
        return [[*front, *each] for each in rounds] or [front]

    def _walk(self, numbered: _Numbered, tools: Tools) -> tuple[list[Exchange], list[Piece]]:
        """The exchanges, and the pieces that follow the last answer."""
        messages = [message for _, message in numbered]
        head = self._head(messages, tools)
        prompt = [self._begin]
        if not self.format.system_in_user:
            prompt, head = prompt + head, []
        exchanges: list[Exchange] = []
        rounds = self.format.first_round
        for index, message in enumerate(messages):
            role = message.role
            if head and role not in ("system", "user"):
                raise self._refusal("an answer before the first question")
            if role == "assistant":
                exchanges.append(self._exchange(prompt, message))
                prompt = [self._between]
            elif role == "user":
                answered = index > 0 and messages[index - 1].role == "assistant"
                prompt += self._question(message, head, rounds, answered)
                head, rounds = [], rounds + 1
            elif role == "tool":
                prompt += self._result(messages, index)
            elif index:
                raise self._refusal("a system message after the first")
        return exchanges, prompt

    def _head(self, messages: Sequence[Message], tools: Tools) -> list[Piece]:
        """The system prompt, with the tools; nothing where there is neither."""
        format = self.format
        text = messages[0].text if messages and messages[0].role == "system" else ""
        if tools and not format.tools:
            raise self._refusal("tools")
        if text and not format.system:
            raise self._refusal("a system prompt", 'leave it out: data.system=""')
        if not (text or tools or format.empty_system):
            return []
        before, after = self._system
        if tools and format.tools:
            return [before, *calls.told(format.tools, tools, text), after]
        return [before, Piece(text, False), after]

    def _question(
        self, message: Message, head: list[Piece], number: int, answered: bool
    ) -> list[Piece]:
        before, after = self._user
        if "{round}" in self.format.user:
            before, after = (s.replace("{round}", str(number)) for s in (before, after))
        if answered:
            before = before.removeprefix(self.opened)
        return [Piece(before, True), *head, Piece(message.text, False), Piece(after, True)]

    def _exchange(self, prompt: list[Piece], message: Message) -> Exchange:
        completion = [self._answer] if self._answer.text else []
        made: list[ToolCall] = []
        for part in message.parts:
            if isinstance(part, Thinking):
                opening, closing = self._thinking
                completion += [opening, Piece(part.text, False), closing]
            elif isinstance(part, ToolCall):
                made.append(part)
        completion.append(Piece(message.text, False))
        if not made:
            return (*prompt, self._assistant), (*completion, self._end)
        if self.format.tools is None:
            raise self._refusal("tool calls")
        if self.format.tools.single and len(made) > 1:
            raise self._refusal("more than one tool call in an answer")
        completion += calls.called(self.format.tools, made, bool(message.text))
        return (*prompt, self._assistant), (*completion, self._call_end)

    def _result(self, messages: Sequence[Message], index: int) -> list[Piece]:
        if self.format.tools is None:
            raise self._refusal("messages of tools")
        text = messages[index].text
        first = index == 0 or messages[index - 1].role != "tool"
        last = index + 1 == len(messages) or messages[index + 1].role != "tool"
        return calls.result(self.format.tools, text, first=first, last=last)

    def _refusal(self, what: str, fix: str = "") -> DataError:
        return DataError(
            "D302",
            f"the template `{self.name}` has no place for {what}",
            fix=fix or "use the model's own template (data.template=auto), if it has one",
        )


def _parts(string: str) -> tuple[Piece, Piece]:
    before, after = split(string)
    return Piece(before, True), Piece(after, True)


def _writes_bos(format: Format, tokenizer: Tokenizer) -> bool:
    if format.bos == "never" or not tokenizer.bos:
        return False
    return format.bos != "tokenizer" or tokenizer.adds_bos


def _end(name: str, format: Format, tokenizer: Tokenizer) -> tuple[str, tuple[str, ...]]:
    """The end marker, and notes if it or other markup is no token of this tokenizer.

    Raises:
        DataError: D304, there is no token to end an answer with.
    """
    notes = []
    for token in _tokens_named(format):
        if token not in tokenizer.added and token != format.end:
            notes.append(f"`{token}` is no token of this model: it is written as plain text")
    if format.end != "eos" and format.end in tokenizer.added:
        return format.end, tuple(notes)
    if not tokenizer.eos:
        raise no_end(name)
    if format.end != "eos":
        said = f"`{format.end}` is no token of this model: answers end with {tokenizer.eos}"
        notes.insert(0, said)
    return tokenizer.eos, tuple(notes)


def _tokens_named(format: Format) -> list[str]:
    """Strings of the markup that ought to be tokens, in order."""
    texts = [format.prefix, format.system, format.user, format.assistant, format.separator]
    if format.tools:
        texts += [format.tools.call, format.tools.results, format.tools.result]
    found = [token for text in texts for token in _TOKEN.findall(text)]
    return list(dict.fromkeys([*found, *format.tokens]))
