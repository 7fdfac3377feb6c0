"""One template object for training, chat, evaluation and export: the boundary rule lives here.

A conversation is cut exactly where inference cuts it: what `add_generation_prompt` renders is the
prompt, what the model writes is the completion, up to and including its end marker. Each part is
tokenised by itself, so the ids inference sends are a prefix of the ids that were trained.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from tunesmith.errors import ConfigError, DataError
from tunesmith.registry import did_you_mean
from tunesmith.templates import strings
from tunesmith.templates.sandbox import Sandbox
from tunesmith.templates.tokenizer import Piece, Tokenizer
from tunesmith.types import Conversation, Message, Text, Thinking, ToolCall

DEFAULT = "default"
"""The template of models that bring none."""


class Turn(NamedTuple):
    """What inference sends since the last answer, and the answer with its end marker."""

    prompt: tuple[Piece, ...]
    completion: tuple[Piece, ...]
    weight: float
    """Weight of the completion's tokens."""
    prompt_weight: float = 0.0
    """Weight of the prompt's tokens (train_on: with_prompt)."""
    answered: bool = True
    """Whether the answer is more than its end marker."""


class EncodedTurn(NamedTuple):
    prompt_ids: list[int]
    completion_ids: list[int]
    weight: float
    prompt_weight: float
    answered: bool
    end_tokens: int
    """How many of the last completion ids are the end marker."""


def load(name: str, directory: Path) -> Template:
    """The template called `name`, on the tokenizer of a directory.

    Args:
        name: `auto` (the model's own, else `default`), a file of templates/ without its suffix, or
            a path to a .toml or .jinja file.
        directory: A model or tokenizer directory.

    Raises:
        ConfigError: C111, no such template.
        DataError: D301, it can't be compiled.
    """
    tokenizer = Tokenizer.load(directory)
    notes: list[str] = []
    if name == "auto":
        own = tokenizer.chat_template
        if own:
            return Template("auto", own, tokenizer, notes)
        notes.append(f"the model brings no chat template; `{DEFAULT}` is used and saved with it")
        name = DEFAULT
    if name.endswith(".jinja"):
        return Template(Path(name).stem, _read(name), tokenizer, notes)
    source = _read(name) if name.endswith(".toml") else _shipped(name)
    return Template(Path(name).stem, *strings.jinja(source, name, tokenizer, notes), notes)


def names() -> list[str]:
    """Templates that ship with tunesmith."""
    folder = files("tunesmith.templates")
    return sorted(
        f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")
    )


class Template:
    """Renders and tokenises conversations.

    Attributes:
        jinja: The template as Jinja; saved with the model, it renders the same text anywhere.
        notes: What was chosen or mended, to be said aloud.
        stop_ids: Tokens that end an answer.
    """

    def __init__(self, name: str, jinja: str, tokenizer: Tokenizer, notes: list[str]):
        self.name = name
        self.jinja = jinja
        self.tokenizer = tokenizer
        self.notes = notes
        self.source_hash = hashlib.sha256(jinja.encode()).hexdigest()
        tokens = {
            n: tokenizer.token(n) for n in ("bos_token", "eos_token", "pad_token", "unk_token")
        }
        self._render = Sandbox(jinja, tokens)
        self._eos = tokens["eos_token"]
        self.stop_ids = self._find_stops()
        self.stop_strings: tuple[str, ...] = ()

    # ------------------------------------------------------------ rendering

    def render(
        self,
        conversation: Conversation,
        *,
        train_on: str = "all_turns",
        system: str | None = None,
    ) -> tuple[tuple[Turn, ...], ...]:
        """Turns of a conversation, as one sequence; or one sequence a trained turn where the
        template rewrites history (strips thinking, say), for then no sequence holds them all.

        Args:
            conversation: What was said.
            train_on: all_turns, last_turn or with_prompt.
            system: System prompt if the conversation has none; None: the template's own default.

        Raises:
            DataError: D302, the template refuses it; D303, nobody answers.
        """
        messages = with_system(conversation.messages, system)
        answers = [i for i, message in enumerate(messages) if message.role == "assistant"]
        if not answers:
            raise DataError("D303", "no assistant turn, so nothing would be trained")
        marked, restore = self._mark(messages)
        tools = [dict(tool) for tool in conversation.tools] or None
        cuts = [self._cut(marked, i, tools) for i in answers]
        weights = [
            _weight(messages[i], n == len(answers) - 1, train_on) for n, i in enumerate(answers)
        ]
        prompt_weight = 1.0 if train_on == "with_prompt" else 0.0
        answered = [_answered(messages[i]) for i in answers]
        sequences: list[tuple[Turn, ...]] = []
        turns: list[Turn] = []
        so_far = ""
        for (prompt, completion), weight, full in zip(cuts, weights, answered, strict=True):
            if not prompt.startswith(so_far):  # history was rewritten: begin anew
                sequences += _trained(turns)
                turns, so_far = [], ""
            pieces = restore(prompt[len(so_far) :]), restore(completion)
            turns.append(Turn(*pieces, weight, prompt_weight, full))
            so_far = prompt + completion
        sequences += _trained(turns)
        return tuple(sequences)

    def prompt(self, conversation: Conversation, system: str | None = None) -> tuple[Turn, ...]:
        """The turns of a conversation that the assistant is to continue; the last has no answer."""
        messages = with_system(conversation.messages, system)
        marked, restore = self._mark(messages)
        tools = [dict(tool) for tool in conversation.tools] or None
        end = self._render(marked, prompt=True, tools=tools)
        turns: list[Turn] = []
        so_far = ""
        for i, message in enumerate(messages):
            if message.role != "assistant":
                continue
            prompt, completion = self._cut(marked, i, tools)
            if not prompt.startswith(so_far) or not end.startswith(prompt + completion):
                turns, so_far = [], ""
                if not end.startswith(prompt + completion):
                    continue
            turns.append(Turn(restore(prompt[len(so_far) :]), restore(completion), 0.0))
            so_far = prompt + completion
        return (*turns, Turn(restore(end[len(so_far) :]), (), 0.0, answered=False))

    def prompt_ids(self, conversation: Conversation, system: str | None = None) -> list[int]:
        """What inference sends for a conversation that the assistant is to continue."""
        [turns] = self.encode_batch([self.prompt(conversation, system)])
        return [i for turn in turns for i in turn.prompt_ids + turn.completion_ids]

    def encode_batch(self, sequences: Sequence[Sequence[Turn]]) -> list[list[EncodedTurn]]:
        """Ids of many sequences at once; each prompt and each completion is a segment."""
        segments = [
            [part for turn in s for part in (turn.prompt, turn.completion)] for s in sequences
        ]
        encoded = self.tokenizer.encode_segments(segments)
        special = self.tokenizer.special_ids
        results = []
        for turns, ids in zip(sequences, encoded, strict=True):
            row = []
            for n, turn in enumerate(turns):
                prompt, completion = ids[2 * n], ids[2 * n + 1]
                ends = 1 if completion and completion[-1] in special else 0
                row.append(
                    EncodedTurn(
                        prompt, completion, turn.weight, turn.prompt_weight, turn.answered, ends
                    )
                )
            results.append(row)
        return results

    # ------------------------------------------------------------ where an answer begins and ends

    def _cut(self, messages: list[dict], index: int, tools: Any) -> tuple[str, str]:
        """(all that precedes the answer of message `index`, the answer with its end marker)."""
        prompt = self._render(messages[:index], prompt=True, tools=tools)
        whole = self._render(messages[: index + 1], prompt=False, tools=tools)
        content = str(messages[index]["content"]).strip()
        if whole.startswith(prompt):
            rest = whole[len(prompt) :]
        else:  # the generation prompt holds text that the rendered history lacks, e.g. <think>
            plain = self._render(messages[:index], prompt=False, tools=tools)
            shared = plain if whole.startswith(plain) else ""
            at = whole.find(content, len(shared)) if content else len(whole)
            if at < 0:
                raise DataError("D302", "the chat template drops the assistant's text")
            rest = whole[at:]
        return prompt, self._until_end(rest, content)

    def _until_end(self, rest: str, content: str) -> str:
        """An answer up to the first special token after its content; EOS where there is none."""
        at = rest.find(content) + len(content) if content in rest else 0
        found = self.tokenizer.special_pattern.search(rest, at)
        if found:
            return rest[: found.end()]
        note = "the template puts no end token after an answer; EOS is trained there"
        if self._eos and note not in self.notes:
            self.notes.append(note)
        return rest.rstrip("\n") + self._eos

    def _find_stops(self) -> tuple[int, ...]:
        """The tokenizer's EOS, and what ends an answer in this template."""
        stops = {self.tokenizer.eos_id}
        try:
            asked = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
            _, completion = self._cut(asked, 1, None)
        except DataError:  # a template that wants other messages; its EOS is all we know
            completion = ""
        found = list(self.tokenizer.special_pattern.finditer(completion))
        if found:
            stops.add(self.tokenizer.special_id(found[-1].group()))
        return tuple(sorted(stop for stop in stops if stop is not None))

    # ------------------------------------------------------------ special tokens in content

    def _mark(self, messages: Sequence[Message]):
        """Messages as the template takes them, special strings in content replaced by marks, and a
        function that cuts rendered text into pieces with those strings back as content."""
        hidden: list[str] = []
        pattern = self.tokenizer.special_pattern

        def hide(found: re.Match[str]) -> str:
            hidden.append(found.group())
            return f"\ue0f0{len(hidden) - 1}\ue0f1"

        def clean(text: str) -> str:
            return pattern.sub(hide, text)

        marked = [_as_dict(message, clean) for message in messages]

        def restore(text: str) -> tuple[Piece, ...]:
            if not hidden:
                return (Piece(text, True),) if text else ()
            parts = re.split("\ue0f0(\\d+)\ue0f1", text)
            pieces = [
                Piece(hidden[int(part)], False) if odd % 2 else Piece(part, True)
                for odd, part in enumerate(parts)
            ]
            return tuple(piece for piece in pieces if piece.text)

        return marked, restore


def with_system(messages: Sequence[Message], system: str | None) -> tuple[Message, ...]:
    """The messages with a system prompt in front, unless they have one or it is None or empty."""
    if not system or (messages and messages[0].role == "system"):
        return tuple(messages)
    return (Message.of("system", system), *messages)


def _trained(turns: list[Turn]) -> list[tuple[Turn, ...]]:
    """The sequence, if anything in it is trained."""
    return [tuple(turns)] if any(turn.weight or turn.prompt_weight for turn in turns) else []


def _weight(message: Message, last: bool, train_on: str) -> float:
    if message.weight is not None:
        return message.weight
    return 1.0 if last or train_on != "last_turn" else 0.0


def _answered(message: Message) -> bool:
    return any(not isinstance(part, Text) or part.text.strip() for part in message.parts)


def _as_dict(message: Message, clean: Any) -> dict[str, Any]:
    """A message in the shape of transformers' chat templates."""
    made: dict[str, Any] = {"role": message.role, "content": clean(message.text)}
    thinking = "".join(part.text for part in message.parts if isinstance(part, Thinking))
    if thinking:
        made["reasoning_content"] = clean(thinking)
    calls = [part for part in message.parts if isinstance(part, ToolCall)]
    if calls:
        made["tool_calls"] = [
            {
                "type": "function",
                "id": call.id,
                "function": {"name": call.name, "arguments": _arguments(call.arguments)},
            }
            for call in calls
        ]
    return made


def _arguments(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _read(path: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            "C111", f"no template at {path}: {error.strerror}", where="data.template"
        ) from None


def _shipped(name: str) -> str:
    known = names()
    if name not in known:
        fix = f"{did_you_mean(name, known)}  known: auto, {', '.join(known)}, or a file".strip()
        raise ConfigError("C111", f"no template called `{name}`", where="data.template", fix=fix)
    return (files("tunesmith.templates") / f"{name}.toml").read_text(encoding="utf-8")
