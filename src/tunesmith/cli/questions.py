"""Rows of any data format as questions: what is to be answered, and the answer that is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunesmith.errors import DataError
from tunesmith.types import Conversation, Document, Feedback, Message, Preference, Sample

if TYPE_CHECKING:
    from tunesmith.data.json_rows import Row
    from tunesmith.recipe.sections import Source

ACCEPTS = (Conversation, Preference, Feedback, Document)
OPEN = "(to be answered)"
"""Stands where a row has no answer yet, while its format reads it."""


@dataclass(frozen=True)
class Question:
    """A prompt, as text and as a conversation, and where it was found."""

    text: str
    messages: tuple[Message, ...]
    reference: str | None = None
    where: str = ""

    def line(self) -> dict[str, Any]:
        """The part of an output line that comes from the input."""
        only = len(self.messages) == 1 and self.messages[0].role == "user"
        shown = [{"role": m.role, "content": m.text} for m in self.messages]
        asked = {"prompt": self.text} if only else {"messages": shown}
        return asked if self.reference is None else {**asked, "reference": self.reference}


def read(source: Source, raw: bool) -> Iterator[Question]:
    """Questions of a source: plain text, `{"prompt": …}`, or rows of any format, answered or not.

    An answer that stands last is the reference; of a pair it is the chosen one.

    Args:
        source: Its format and columns are detected, row by row, where it names none.
        raw: Texts to be continued instead of conversations.

    Raises:
        DataError: D1xx, the file or a row can't be read; D403, a row asks nothing.
    """
    from tunesmith.data import read as reading
    from tunesmith.recipe.sections import DataConfig

    config, known = DataConfig(), {}
    for row in reading.rows(source.path, max_samples=source.max_samples):
        value = row.value
        if isinstance(value, str):
            yield Question(value, (Message.of("user", value),), where=row.where)
        elif raw:
            yield _continued(value, row.where, source.columns or {})
        else:
            for sample, answered in _samples(row, value, source, config, known):
                yield _question(sample, row.where, answered)


def _continued(value: dict[str, Any], where: str, columns: Mapping[str, str]) -> Question:
    """A row of text, or of a column that holds it."""
    for role in ("prompt", "text"):
        text = value.get(columns.get(role) or role)
        if isinstance(text, str):
            said = value.get(columns.get("completion") or "completion")
            reference = said if isinstance(said, str) and role == "prompt" else None
            return Question(text, (Message.of("user", text),), reference, where)
    raise DataError("D403", "--raw wants rows of text or with `prompt`", where=where)


def _samples(
    row: Row, given: dict[str, Any], source: Source, config: Any, known: dict[Any, Any]
) -> Iterator[tuple[Sample, bool]]:
    """What a row stands for, and whether its last answer is the row's own."""
    from tunesmith.data.formats import base as formats

    columns = source.columns or {}
    value = _opened(given, columns)
    opened = row._replace(value=value)
    shape = tuple(value)  # rows of one file may differ; those with the same columns are alike
    if shape not in known:
        try:
            name = source.format or formats.detect([opened], columns or None, ACCEPTS)
            formats.check_columns(name, columns, source.path)
        except DataError as error:
            text = given.get("prompt")
            if error.code != "D120" or not isinstance(text, str) or columns:
                raise
            name = ""  # beside columns that are no format's
        known[shape] = formats.load(name) if name else None
    if known[shape] is None:
        yield Conversation((Message.of("user", given["prompt"]),)), False
        return
    for sample in formats.samples(known[shape], opened, columns, config):
        yield sample, value is given


def _opened(value: dict[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """The row, with a placeholder where its format would have the answer and it has none."""
    from tunesmith.data.formats import alpaca, base, prompt_completion

    if "chosen" in value or "messages" in value or "conversations" in value:
        return value
    if "instruction" in value or "instruction" in columns:
        name = base.column(alpaca.ROLES, value, "output", columns) or "output"
        return value if value.get(name) else {**value, name: OPEN}
    asks, answers = "", ""
    if "prompt" in columns:
        asks = columns["prompt"]
        answers = columns.get("completion") or "completion"
    elif not any({ask, answer} <= set(value) for ask, answer in prompt_completion.PAIRS):
        pairs = (pair for pair in prompt_completion.PAIRS if pair[0] in value)
        asks, answers = next(pairs, ("", ""))
    elif {"src", "tgt"} <= set(value):
        asks, answers = "src", "tgt"
    asked, said = value.get(asks), value.get(answers)
    if isinstance(asked, str) and (said is None or said == ""):
        return {**value, answers: OPEN}
    if isinstance(asked, list) and len(asked) == len(said or []) + 1:
        return {**value, answers: [*(said or []), OPEN]}
    return value


def _question(sample: Sample, where: str, answered: bool) -> Question:
    if isinstance(sample, Document):
        return Question(sample.text, (Message.of("user", sample.text),), where=where)
    if isinstance(sample, Feedback):  # an answer that was judged bad is no reference
        answered, sample = answered and sample.desirable, sample.conversation
    if isinstance(sample, Preference):
        messages = (*sample.prompt.messages, *sample.chosen[:1])
    else:
        messages = sample.messages
    reference = None
    if messages and messages[-1].role == "assistant":
        messages, reference = messages[:-1], messages[-1].text if answered else None
    if not messages:
        raise DataError("D403", "the row asks nothing", where=where)
    return Question(messages[-1].text, messages, reference, where)
