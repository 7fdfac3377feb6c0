"""Rows to items: parse, put the source's system prompt in, let the stage encode.

What is left out, and what of a row is not used, is counted beside the items.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tunesmith.data import fill, overlooked, read, report as reports, store
from tunesmith.data.formats import base as formats
from tunesmith.data.json_rows import Row
from tunesmith.errors import DataError
from tunesmith.recipe.sections import DataConfig, Source
from tunesmith.types import Conversation, Encoded, Feedback, Message, Preference, Sample

StageEncode = Callable[[Sequence[Sample]], list[Encoded]]


class RowItems(NamedTuple):
    """What became of some rows."""

    items: list[store.Item]
    problems: list[reports.Problem]
    """Rows that are left out."""
    truncated: int
    """Tokens that were cut away."""
    cut_answers: int
    """Samples of whose answers something was cut away."""
    overlooked: list[overlooked.Overlooked]


def encode_rows(
    rows: Sequence[Row], format: str, source: Source, config: DataConfig, encode: StageEncode
) -> RowItems:
    """The items of rows whose `file` is the number of their file, as text."""
    module = formats.load(format)
    columns = source.columns or {}
    problems: list[reports.Problem] = []
    kept: list[Row] = []
    samples: list[Sample] = []
    unused = overlooked.Counts()
    read_whole: set[tuple[str, ...]] = set()  # such rows need no watch, which costs a tenth
    for row in rows:
        shape = overlooked.shape(row)
        watch = shape not in read_whole
        row = overlooked.watched(row) if watch else row
        try:
            made = formats.samples(module, row, columns, config)
        except DataError as error:
            problems.append(reports.Problem(int(row.file), row.place, error.code, error.what))
            continue
        if not made:
            reason = f"{reports.NOTHING} {format} can use"
            problems.append(reports.Problem(int(row.file), row.place, "D126", reason, "skip"))
        unused.add(row, made)
        if watch and shape is not None and overlooked.is_read_whole(row):
            read_whole.add(shape)
        samples += [with_system(sample, source.system) for sample in made]
        kept += [row] * len(made)
    items: list[store.Item] = []
    truncated = cut_answers = 0
    for row, sample, encoded in zip(kept, samples, encode(samples), strict=True):
        if encoded.problem or not encoded.examples:
            reason = encoded.problem or "nothing to train"
            place = int(row.file), row.place
            if not problems or problems[-1][:2] != place:  # a row is one problem
                problems.append(reports.Problem(*place, "D204", reason, encoded.policy))
            continue
        truncated += encoded.truncated
        cut_answers += encoded.cut_answer
        items += _items(row, sample, encoded, source.weight)
    return RowItems(items, problems, truncated, cut_answers, unused.all())


def samples_at(where: str, format: str, source: Source, config: DataConfig) -> list[Sample]:
    """The samples of the row of a source that stands at a place, as `Row.where` names it."""
    module = formats.load(format)
    found = read.rows(
        source.path,
        max_samples=source.max_samples,
        whole=module.WHOLE_FILES,
        on_bad=lambda error: None,
    )
    row = next((row for row in found if row.where == where), None)
    if row is None:
        return []
    made = formats.samples(
        module, fill.filled(row, source.fill or {}), source.columns or {}, config
    )
    return [with_system(sample, source.system) for sample in made]


def batches(rows: Iterator[Row], most_rows: int, most_characters: int) -> Iterator[tuple[Row, ...]]:
    """Rows in groups that end at so many rows or characters."""
    batch: list[Row] = []
    characters = 0
    for row in rows:
        batch.append(row)
        characters += len(row.value) if isinstance(row.value, str) else 0
        if len(batch) == most_rows or characters > most_characters:
            yield tuple(batch)
            batch, characters = [], 0
    if batch:
        yield tuple(batch)


def _items(row: Row, sample: Sample, encoded: Encoded, weight: float) -> list[store.Item]:
    """The two sides of a preference, and an answer and its mismatch, share a step; blocks of a
    document or parts of a long conversation are drawn each on its own."""
    examples = encoded.examples
    if weight != 1.0:
        factor = np.float32(weight)
        examples = tuple(e._replace(weights_T=e.weights_T * factor) for e in examples)
    groups = [examples] if isinstance(sample, Preference | Feedback) else [(e,) for e in examples]
    return [store.Item(group, int(row.file), row.place) for group in groups]


def with_system(sample: Sample, system: str | None) -> Sample:
    """Puts the source's system prompt before conversations without one; "" says there is none."""
    if system is None:
        return sample
    if isinstance(sample, Preference):
        return dataclasses.replace(sample, prompt=_begun(sample.prompt, system))
    if isinstance(sample, Feedback):
        return Feedback(_begun(sample.conversation, system), sample.desirable)
    return _begun(sample, system) if isinstance(sample, Conversation) else sample


def _begun(conversation: Conversation, system: str) -> Conversation:
    if any(message.role == "system" for message in conversation.messages):
        return conversation
    messages = (Message.of("system", system), *conversation.messages)
    return Conversation(messages, conversation.tools)
