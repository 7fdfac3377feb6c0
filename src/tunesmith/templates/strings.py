"""Chat formats that a few strings describe: the .toml files of this folder."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from dataclasses import dataclass
from typing import Literal

from tunesmith.errors import DataError
from tunesmith.registry import did_you_mean
from tunesmith.templates.base import Exchange, Template, Tools, no_end
from tunesmith.templates.pieces import Piece
from tunesmith.templates.tokenizer import Tokenizer
from tunesmith.types import Message, Text, Thinking


@dataclass(frozen=True)
class Format:
    """The strings of a chat format. `{content}` stands for what a message says."""

    description: str
    """One line for lists of templates."""
    user: str
    """A message of the user."""
    assistant: str = ""
    """What precedes every answer: the generation prompt."""
    answer: str = "{content}"
    """An answer; white space in front belongs to the completion, where tokenizers expect it."""
    end: str = "eos"
    """What ends an answer: a token's string, or `eos`."""
    separator: str = ""
    """Between the end of an answer and the next message."""
    system: str = "{content}"
    """The system prompt."""
    system_in_user: bool = False
    """The system prompt stands inside the first message of the user."""
    default_system: str = ""
    """System prompt of conversations that have none."""
    tool: str = ""
    """A tool's result; empty: the format has no tools."""
    bos: Literal["tokenizer", "always", "each_turn"] = "tokenizer"
    """BOS in front: if the tokenizer adds one to text; always; or before every user message that
    begins a turn. Never where the tokenizer has none."""
    stop_strings: tuple[str, ...] = ()
    """Strings that end an answer besides the end marker."""
    thinking: str = "<think>\n{content}\n</think>\n\n"
    """Reasoning, in front of its answer."""


class StringTemplate(Template):
    """A chat format written as strings."""

    def __init__(self, name: str, source: str, tokenizer: Tokenizer):
        super().__init__(name, source, tokenizer)
        self.format = _read(name, source)
        self.end, self.notes = _end(name, self.format, tokenizer)
        self._begin = tokenizer.bos if _writes_bos(self.format, tokenizer) else ""
        each = self._begin if self.format.bos == "each_turn" else ""
        self._between = self.format.separator + each
        self._user = self._parts(self.format.user)
        self._system = self._parts(self.format.system)
        self._tool = self._parts(self.format.tool) if self.format.tool else None
        before, after = _split(self.format.answer)
        self._answer = Piece(before, True), Piece(after + self.end, True)
        self._thinking = self._parts(self.format.thinking)
        self.answer_prefix = before if before.isspace() else ""
        end_id = tokenizer.added.get(self.end)
        self.stop_ids = tuple(dict.fromkeys(i for i in (end_id, tokenizer.eos_id) if i is not None))
        self.stop_strings = self.format.stop_strings
        self.jinja = self.jinja_for(None)

    def jinja_for(self, system: str | None) -> str:
        """The same format in Jinja, with a default system prompt (None: the format's own)."""
        default = self.format.default_system if system is None else system
        return _jinja(self, default)

    def _parts(self, string: str) -> tuple[Piece, Piece]:
        before, after = _split(string)
        return Piece(before, True), Piece(after, True)

    def _with_system(
        self, messages: tuple[Message, ...], system: str | None
    ) -> tuple[Message, ...]:
        if messages and messages[0].role == "system":
            return messages
        text = self.format.default_system if system is None else system
        return (Message.of("system", text), *messages) if text else messages

    def _sequences(self, messages: tuple[Message, ...], tools: Tools) -> list[list[int | Exchange]]:
        exchanges, _ = self._walk(messages, tools)
        answers = [i for i, message in enumerate(messages) if message.role == "assistant"]
        return [[entry for pair in zip(exchanges, answers, strict=True) for entry in pair]]

    def _prompt(
        self, messages: tuple[Message, ...], tools: Tools
    ) -> tuple[list[Exchange], tuple[Piece, ...]]:
        history, prompt = self._walk(messages, tools)
        return history, (*prompt, Piece(self.format.assistant, True))

    def _walk(
        self, messages: tuple[Message, ...], tools: Tools
    ) -> tuple[list[Exchange], list[Piece]]:
        """The exchanges, and the pieces that follow the last answer."""
        if tools:
            raise self._refusal("tools")
        if self.format.system_in_user and [m.role for m in messages[:2]] == ["system", "assistant"]:
            raise self._refusal("an answer before the first question")
        exchanges: list[Exchange] = []
        prompt = [Piece(self._begin, True)]
        for index, message in enumerate(messages):
            if message.role == "assistant":
                exchanges.append(self._exchange(prompt, message))
                prompt = [Piece(self._between, True)]
            else:
                self._add(prompt, messages, index)
        return exchanges, prompt

    def _exchange(self, prompt: list[Piece], message: Message) -> Exchange:
        before, after = self._answer
        completion = [before] if before.text else []
        for part in message.parts:
            if isinstance(part, Thinking):
                opening, closing = self._thinking
                completion += [opening, Piece(part.text, False), closing]
            elif not isinstance(part, Text):
                raise self._refusal("tool calls")
        completion += [Piece(message.text, False), after]
        return (*prompt, Piece(self.format.assistant, True)), tuple(completion)

    def _add(self, prompt: list[Piece], messages: tuple[Message, ...], index: int) -> None:
        message = messages[index]
        if message.role == "system":
            if index:
                raise self._refusal("a system message after the first")
            if not self.format.system_in_user and message.text:
                prompt += _filled(self._system, message.text)
            return
        if message.role == "tool" and self._tool is None:
            raise self._refusal("messages of tools")
        before, after = self._user if message.role == "user" else self._tool or self._user
        prompt.append(before)
        first = messages[0]
        if index == 1 and self.format.system_in_user and first.role == "system" and first.text:
            prompt += _filled(self._system, first.text)
        prompt += [Piece(message.text, False), after]

    def _refusal(self, what: str) -> DataError:
        fix = "use the model's own template (data.template=auto), if it has one"
        return DataError("D302", f"the template `{self.name}` has no place for {what}", fix=fix)


def _filled(parts: tuple[Piece, Piece], text: str) -> list[Piece]:
    return [parts[0], Piece(text, False), parts[1]]


def _split(string: str) -> tuple[str, str]:
    before, _, after = string.partition("{content}")
    return before, after


def _read(name: str, source: str) -> Format:
    """Raises DataError D301 unless the file has exactly a format's strings."""
    fields = {field.name: field for field in dataclasses.fields(Format)}
    try:
        found = tomllib.loads(source)
    except tomllib.TOMLDecodeError as error:
        raise _bad(name, f"is no TOML: {error}") from None
    for key in found:
        if key not in fields:
            near = did_you_mean(key, list(fields))
            raise _bad(name, f"has the unknown key `{key}`; {near} known: {', '.join(fields)}")
    for key in ("description", "user"):
        if key not in found:
            raise _bad(name, f"lacks the key `{key}`")
    for key, value in found.items():
        kind = {"system_in_user": bool, "stop_strings": list}.get(key, str)
        if not isinstance(value, kind):
            raise _bad(name, f"has a {type(value).__name__} for `{key}`, not a {kind.__name__}")
    for key in ("user", "answer", "system", "tool", "thinking"):
        if found.get(key) and found[key].count("{content}") != 1:
            raise _bad(name, f"needs `{{content}}` once in `{key}`")
    if found.get("bos", "tokenizer") not in ("tokenizer", "always", "each_turn"):
        raise _bad(name, f"has `bos` {found['bos']!r}; known: tokenizer, always, each_turn")
    found["stop_strings"] = tuple(found.get("stop_strings", ()))
    return Format(**found)


def _bad(name: str, what: str) -> DataError:
    return DataError("D301", f"the template `{name}` {what}", where=name)


def _writes_bos(format: Format, tokenizer: Tokenizer) -> bool:
    return bool(tokenizer.bos) and (format.bos != "tokenizer" or tokenizer.adds_bos)


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
    """`<|…|>` strings in the markup, in order."""
    found = []
    for string in (format.system, format.user, format.assistant, format.separator, format.tool):
        for part in string.split("<|")[1:]:
            if "|>" in part:
                found.append(f"<|{part.partition('|>')[0]}|>")
    return list(dict.fromkeys(found))


def _jinja(template: StringTemplate, default_system: str) -> str:
    """The format as Jinja: the same text in any engine that renders chat templates."""
    format, q = template.format, lambda text: json.dumps(text, ensure_ascii=False)
    user, system = _split(format.user), _split(format.system)
    answer, thinking = _split(format.answer), _split(format.thinking)
    tool = _split(format.tool)
    bos = "bos_token" if template._begin else '""'
    between = q(format.separator) + (
        " + bos_token" if template._between != format.separator else ""
    )
    system_text = f"{q(system[0])} + system + {q(system[1])}"
    outside = f"{{%- if system %}}{{{{ {system_text} }}}}{{%- endif %}}"
    inside = f"({system_text} if system and loop.first else '')"
    in_user = f" + {inside}" if format.system_in_user else ""
    lines = [
        "{%- if messages and messages[0]['role'] == 'system' %}",
        "{%- set system = messages[0]['content'] %}{%- set rest = messages[1:] %}",
        "{%- else %}",
        f"{{%- set system = {q(default_system)} %}}{{%- set rest = messages %}}",
        "{%- endif %}",
        f"{{{{- {bos} }}}}",
        "" if format.system_in_user else outside,
        "{%- for message in rest %}",
        "{%- if not loop.first and loop.previtem['role'] == 'assistant' %}",
        f"{{{{- {between} }}}}",
        "{%- endif %}",
        "{%- if message['role'] == 'user' %}",
        f"{{{{- {q(user[0])}{in_user} + message['content'] + {q(user[1])} }}}}",
        "{%- elif message['role'] == 'assistant' %}",
        f"{{{{- {q(format.assistant + answer[0])} }}}}",
        "{%- if message['reasoning_content'] is string %}",
        f"{{{{- {q(thinking[0])} + message['reasoning_content'] + {q(thinking[1])} }}}}",
        "{%- endif %}",
        f"{{{{- message['content'] + {q(answer[1] + template.end)} }}}}",
    ]
    if format.tool:
        lines += [
            "{%- elif message['role'] == 'tool' %}",
            f"{{{{- {q(tool[0])} + message['content'] + {q(tool[1])} }}}}",
        ]
    lines += [
        "{%- else %}",
        "{{- raise_exception('this chat format has no place for a message of the role ' "
        "+ message['role'] + ' here') }}",
        "{%- endif %}",
        "{%- endfor %}",
        "{%- if add_generation_prompt %}",
        "{%- if rest and rest[-1]['role'] == 'assistant' %}",
        f"{{{{- {between} }}}}",
        "{%- endif %}",
        f"{{{{- {q(format.assistant)} }}}}",
        "{%- endif %}",
    ]
    return "\n".join(line for line in lines if line) + "\n"
