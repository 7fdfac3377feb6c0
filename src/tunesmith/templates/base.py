"""What every chat template does: turn conversations into trained ids, and into prompts.

Law: `prompt_ids` of a conversation up to any of its assistant's turns is, id for id, the beginning
of a sequence that `render` and `encode_batch` make for training.
"""

from __future__ import annotations

import functools
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tunesmith.errors import ConfigError, DataError
from tunesmith.registry import did_you_mean
from tunesmith.templates import formats
from tunesmith.templates.encode import SegmentEncoder
from tunesmith.templates.pieces import EncodedTurn, Piece, Turn, join
from tunesmith.templates.tokenizer import Tokenizer
from tunesmith.types import Conversation, Message, Text

__all__ = ["EncodedTurn", "Piece", "Template", "TrainOn", "Turn", "load", "names"]

TrainOn = Literal["all_turns", "last_turn", "with_prompt"]
Tools = Sequence[Mapping[str, Any]]
Exchange = tuple[tuple[Piece, ...], tuple[Piece, ...]]
"""A prompt and its completion."""
_HERE = Path(__file__).parent
_SHIPPED = (".toml", ".json")


class Template(ABC):
    """A chat format bound to a tokenizer.

    Attributes:
        name: How it was asked for and where it came from, for display.
        tokenizer: The tokenizer.
        source: Text of the template; its sha256 is `source_hash`.
        jinja: An equivalent Jinja template, to be written beside a model.
        stop_ids: Tokens that end an answer: the end marker and EOS.
        stop_strings: Strings that end an answer, where the end marker is no token.
        answer_prefix: White space between prompt and answer that belongs to the completion; to be
            taken off a generated answer.
        rewrites_history: Whether earlier turns look different once later ones follow; then a
            conversation of n turns gives up to n sequences.
        notes: What a user should know about this choice.
    """

    name: str
    jinja: str
    stop_ids: tuple[int, ...]
    stop_strings: tuple[str, ...] = ()
    answer_prefix: str = ""
    rewrites_history: bool = False

    def __init__(self, name: str, source: str, tokenizer: Tokenizer):
        self.name = name
        self.source = source
        self.source_hash = hashlib.sha256(source.encode()).hexdigest()
        self.tokenizer = tokenizer
        self.notes: tuple[str, ...] = ()
        self.encoder = SegmentEncoder(tokenizer, source)

    @abstractmethod
    def _sequences(self, messages: tuple[Message, ...], tools: Tools) -> list[list[int | Exchange]]:
        """Sequences for training: exchanges, each followed by its message's index if it is trained
        there (an exchange without one is history)."""

    @abstractmethod
    def _prompt(
        self, messages: tuple[Message, ...], tools: Tools
    ) -> tuple[list[Exchange], tuple[Piece, ...]]:
        """Earlier exchanges, and the prompt for the next answer of the assistant."""

    @abstractmethod
    def _with_system(
        self, messages: tuple[Message, ...], system: str | None
    ) -> tuple[Message, ...]:
        """The messages with a system prompt in front, if they have none; see `render`."""

    def render(
        self,
        conversation: Conversation,
        *,
        train_on: TrainOn = "all_turns",
        system: str | None = None,
        tools: Tools = (),
    ) -> tuple[tuple[Turn, ...], ...]:
        """The sequences to train on, as text.

        Args:
            conversation: What was said. What follows the last answer is left out. A message's own
                weight overrules `train_on`.
            train_on: Which answers are trained: all, the last, or all with the prompts.
            system: System prompt for a conversation without one; None: the template's default;
                an empty string: none.
            tools: Tools of a conversation that brings none.

        Returns:
            Usually one sequence with a Turn an answer; several where the template rewrites history.

        Raises:
            DataError: D302 the template refuses the conversation; D303 there is nothing to train;
                D304 no token to end an answer; D305 content can't be told from markup.
        """
        messages = self._with_system(conversation.messages, system)
        weights = _weights(messages, train_on)
        if not any(weights.values()):
            why = "every weight is 0" if weights else "it has no message of the assistant"
            raise DataError("D303", f"the conversation has nothing to train: {why}")
        prompt_weight = 1.0 if train_on == "with_prompt" else 0.0
        made = []
        for sequence in self._sequences(messages, conversation.tools or tools):
            turns: list[Turn] = []
            for entry in sequence:
                if isinstance(entry, int):
                    last = turns[-1]
                    said = _answered(messages[entry])
                    turns[-1] = Turn(*last[:2], weights[entry], prompt_weight, said)
                else:
                    turns.append(Turn(*entry, 0.0))
            while turns and not turns[-1].weight:
                turns.pop()
            if turns:
                made.append(tuple(turns))
        return tuple(made)

    def add_stops(self, texts: Sequence[str]) -> None:
        """What else ends an answer: a token's id where it is one, else text to be matched."""
        added = self.tokenizer.added
        ids = [added[text] for text in texts if text in added]
        self.stop_ids = tuple(dict.fromkeys([*self.stop_ids, *ids]))
        others = [text for text in texts if text not in added]
        self.stop_strings = tuple(dict.fromkeys([*self.stop_strings, *others]))

    def encode_batch(self, sequences: Sequence[Sequence[Turn]]) -> list[list[EncodedTurn]]:
        """Ids of sequences; give many at once, all text goes to the tokenizer in a few calls.

        Raises:
            DataError: D306, content becomes a control token whatever one does.
        """
        return self.encoder.encode_turns(sequences)

    def prompt_ids(
        self, conversation: Conversation, system: str | None = None, tools: Tools = ()
    ) -> list[int]:
        """What inference sends for the next answer: the conversation and the generation prompt.

        Raises:
            DataError: As `render` and `encode_batch`.
        """
        messages = self._with_system(conversation.messages, system)
        history, prompt = self._prompt(messages, conversation.tools or tools)
        segments = []
        previous: tuple[Piece, ...] = ()
        for pieces in (*(part for exchange in history for part in exchange), prompt):
            segments.append((pieces, previous))
            previous = pieces if join(pieces) else previous
        return [id for ids in self.encoder.encode_segments(segments) for id in ids]


def _weights(messages: Sequence[Message], train_on: TrainOn) -> dict[int, float]:
    """Weight of each answer by the index of its message."""
    answers = [i for i, message in enumerate(messages) if message.role == "assistant"]
    found = {}
    for i in answers:
        own = messages[i].weight
        default = 0.0 if train_on == "last_turn" and i != answers[-1] else 1.0
        found[i] = default if own is None else own
    return found


def _answered(message: Message) -> bool:
    return any(not isinstance(part, Text) or part.text.strip() for part in message.parts)


def names() -> tuple[str, ...]:
    """Names of the templates that come with the package, without aliases and variants."""
    return tuple(sorted(path.stem for path in _HERE.iterdir() if path.suffix in _SHIPPED))


@functools.cache
def aliases() -> Mapping[str, str]:
    """Other names of templates, each with the name it stands for."""
    found = {}
    for path in sorted(_HERE.glob("*.toml")):
        format = formats.read(path.stem, path.read_text(encoding="utf-8"))
        found |= dict.fromkeys(format.aliases, path.stem)
    return found


def load(name: str, tokenizer_dir: str | Path) -> Template:
    """The template called `name` for the tokenizer of a model folder.

    Args:
        name: `auto` (the model's own; `default` for a model that has none), a name from `names()`
            or an alias, a variant of one (`aquila@original`), the path of a .toml or .jinja file,
            or of PaddleNLP's chat_template.json or a folder with one.
        tokenizer_dir: Folder with tokenizer.json, or with what becomes one.

    Raises:
        ConfigError: C110, no such template.
        EnvironmentFault: E201, no tokenizer.
        DataError: D301 the template can't be used; D304 there is no token to end an answer.
    """
    tokenizer = Tokenizer.load(tokenizer_dir)
    template = _load(name, tokenizer)
    template.notes = (*tokenizer.notes, *template.notes)
    return template


def _load(name: str, tokenizer: Tokenizer) -> Template:
    from tunesmith.templates import paddle
    from tunesmith.templates.jinja import JinjaTemplate
    from tunesmith.templates.strings import StringTemplate

    if name == "auto":
        return _own(tokenizer)
    label, path, variant = _located(name)
    source = _text(name, path)
    if path.suffix == ".toml":
        return StringTemplate(label, source, tokenizer, variant)
    if path.suffix == ".json":
        return paddle.load(label, source, tokenizer)
    return JinjaTemplate(label, source, tokenizer)


def check(name: str) -> None:
    """Refuses a template that there is not, or whose strings are broken, without a tokenizer.

    Raises:
        ConfigError: C110, no such template or variant.
        DataError: D301, its file is missing or has wrong keys.
    """
    if name == "auto":
        return
    label, path, variant = _located(name)
    source = _text(name, path)
    if path.suffix == ".toml":
        formats.read(label, source, variant)


def _text(name: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise DataError("D301", "the template can't be read", where=name, why=why) from None


def _own(tokenizer: Tokenizer) -> Template:
    from tunesmith.templates import paddle
    from tunesmith.templates.jinja import JinjaTemplate
    from tunesmith.templates.strings import StringTemplate

    if tokenizer.chat_template is not None:
        return JinjaTemplate("the model's own", tokenizer.chat_template, tokenizer)
    file = tokenizer.path / paddle.FILE
    if file.is_file():
        return paddle.load(f"the model's own {paddle.FILE}", _text("auto", file), tokenizer)
    source = (_HERE / "default.toml").read_text(encoding="utf-8")
    template = StringTemplate("default", source, tokenizer)
    said = "the model has no chat template of its own: `default` was chosen"
    template.notes = (said, *template.notes)
    return template


def _located(name: str) -> tuple[str, Path, str]:
    """(name to show, file, variant) of the template called `name`."""
    stem, _, variant = name.partition("@")
    known = stem if stem in names() else aliases().get(stem, "")
    for suffix in ("toml", "json") if known else ():
        path = _HERE / f"{known}.{suffix}"
        if path.is_file() and (suffix == "toml" or not variant):
            return stem, path, variant
    path = Path(name)
    if (path / "chat_template.json").is_file():
        return path.name, path / "chat_template.json", ""
    if path.suffix in (".toml", ".jinja", ".json"):
        return path.name, path, ""
    every = ("auto", *names(), *sorted(aliases()))
    raise ConfigError(
        "C110",
        f"no template called `{name}`",
        where="data.template",
        fix=f"{did_you_mean(name, every)}  known: {', '.join(every)}, "
        "or a .toml or .jinja file, or a chat_template.json",
    )


def no_end(name: str) -> DataError:
    """The error of a template and a tokenizer that together have nothing to end an answer with."""
    return DataError(
        "D304",
        f"with the template `{name}` there is no token to end an answer with",
        why="The tokenizer has neither the template's end marker nor an EOS token.",
        fix="name an eos_token in tokenizer_config.json",
    )
