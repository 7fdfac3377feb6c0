"""Files of rows into other files of rows: convert, split, mix, remove duplicates.

Rows are read one after the other and written as they come; what is kept in memory is a few bytes a
row. Rows keep their columns, unless another format is asked for.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tunesmith.data import (
    convert,
    convert_lossy,
    encode,
    fill,
    mix,
    read,
    report as reports,
    similar,
    split,
    write,
)
from tunesmith.data.formats import base as formats
from tunesmith.data.json_rows import Row
from tunesmith.errors import DataError
from tunesmith.recipe.sections import DataConfig, Holdout, Source
from tunesmith.types import Conversation, Document, Feedback, Preference, Sample

Samples = tuple[Sample, ...]
LISTED = 1000
"""Rows listed in a report; all are counted."""


@dataclass
class LeftOut:
    """Rows that can't be used: raised, or counted and listed."""

    skip: bool
    count: int = 0
    listed: list[dict[str, str]] = field(default_factory=list)
    lossy: bool = False
    """Rows are written without what the wanted format has no place for, if it can be dropped."""
    lost: Counter[str] = field(default_factory=Counter)
    """Rows by what is not in them any more."""

    def __call__(self, error: DataError) -> None:
        if not self.skip:
            raise error
        self.note(error)

    def note(self, error: DataError) -> None:
        """Counts and lists a row that is no reason to stop."""
        self.count += 1
        if len(self.listed) < LISTED:
            self.listed.append({"where": error.where, "code": error.code, "reason": error.what})

    def report(self) -> dict[str, Any]:
        return {"left_out": self.count, "problems": self.listed, "lost": dict(self.lost)}


class Reading:
    """Rows of a source with the samples they stand for, at least one each."""

    def __init__(self, source: Source, left_out: LeftOut, config: DataConfig | None = None):
        self.source = source
        self.format = source.format or encode.detect(source)
        formats.check_columns(self.format, source.columns or {}, source.path)
        self.module = formats.load(self.format)
        self.left_out = left_out
        self.config = config or DataConfig()

    def __iter__(self) -> Iterator[tuple[Row, Samples]]:
        columns = self.source.columns or {}
        for row in self.rows():
            try:
                samples = formats.samples(self.module, row, columns, self.config)
            except DataError as error:
                self.left_out(error)
                continue
            if samples:
                yield row, samples
            else:
                what = f"{reports.NOTHING} {self.format} can use"
                self.left_out.note(DataError("D126", what, where=row.where))

    def rows(self) -> Iterator[Row]:
        """The rows alone."""
        found = read.rows(
            self.source.path,
            max_samples=self.source.max_samples,
            whole=self.module.WHOLE_FILES,
            on_bad=self.left_out,
        )
        yield from (fill.filled(row, self.source.fill or {}) for row in found)


def to_format(source: Source, out: Path, target: str | None, left_out: LeftOut) -> dict[str, Any]:
    """Writes a source's rows as another kind of file, or in another format.

    Args:
        source: What to read.
        out: What to write; its name says the kind of file.
        target: The format; None: rows keep their columns.
        left_out: Is told each row that can't be read or has no place in the format.

    Raises:
        DataError: D1xx; D128, a row says what the format has no place for.
    """
    found = Reading(source, left_out)
    read_rows = written = 0
    with write.writer(out) as put:
        for row, samples in found:
            read_rows += 1
            for value in _written(row, samples, target, left_out):
                put(value)
                written += 1
    note = convert.said(found.module.SAMPLE, target) if target else ""
    report = {"format": found.format, "to": target or found.format, "note": note}
    return {**report, "rows": read_rows, "written": written, **left_out.report()}


def _written(row: Row, samples: Samples, target: str | None, left_out: LeftOut) -> list[Any]:
    """The row as it is, or what its samples are in another format."""
    if target is None:
        return [row.value]
    try:
        if not left_out.lossy:
            return [made for sample in samples for made in convert.rows(sample, target)]
        parts = [convert_lossy.rows(sample, target) for sample in samples]
        left_out.lost.update({what for _, lost in parts for what in lost})
        return [row for made, _ in parts for row in made]
    except DataError as error:
        left_out(DataError(error.code, error.what, where=row.where, fix=error.fix))
        return []


def _key(samples: Samples, of: Callable[[Sample], str]) -> bytes:
    """What is equal for equal rows."""
    return similar.key(_text(samples, lambda sample: of(sample) + similar.tools(sample)))


def _text(samples: Samples, of: Callable[[Sample], str]) -> str:
    """What a row says: rows are equal if it is."""
    return "\x1c".join(map(of, samples))


# ---------------------------------------------------------------- split


def into_two(
    source: Source, train: Path, evaluation: Path, holdout: Holdout, seed: int
) -> dict[str, Any]:
    """Writes training and evaluation rows into two files; equal rows stay together.

    Args:
        source: What to read, twice: to count and to write.
        train: File of training rows.
        evaluation: File of evaluation rows.
        holdout: How many of the rows are drawn, by the seed; met as nearly as equal rows allow.
        seed: Of the draw.

    Returns:
        train, eval: rows written; asked: rows wanted for evaluation; copies: rows that equal an
        earlier one; and what was left out.

    Raises:
        DataError: D208, one side would be empty; D1xx.
    """
    first: dict[bytes, int] = {}
    sizes: list[int] = []
    for _, samples in Reading(source, LeftOut(skip=True)):
        group = first.setdefault(_key(samples, similar.spoken), len(first))
        if group == len(sizes):
            sizes.append(0)
        sizes[group] += 1
    chosen, asked = split.whole_groups(sizes, holdout, seed, said_as="--eval")
    counts = [0, 0]
    left_out = LeftOut(skip=True)
    with write.writer(train) as put_train, write.writer(evaluation) as put_eval:
        for row, samples in Reading(source, left_out):
            taken = first[_key(samples, similar.spoken)] in chosen
            (put_eval if taken else put_train)(row.value)
            counts[taken] += 1
    copies = sum(counts) - len(first)
    made = {"train": counts[0], "eval": counts[1], "asked": asked, "copies": copies}
    return {**made, **left_out.report()}


# ---------------------------------------------------------------- mix


COMMON: dict[type, str] = {
    Conversation: "openai",
    Preference: "preference",
    Feedback: "feedback",
    Document: "text",
}
"""The format that has a place for all there is in samples of a type."""


def together(
    sources: Sequence[Source],
    out: Path,
    strategy: mix.Strategy,
    probs: Sequence[float] | None,
    seed: int,
) -> dict[str, Any]:
    """Writes rows of several sources into one file, each source in its own order.

    Rows keep their columns if all sources are in one format; else they are written in the one that
    has a place for everything.

    Args:
        sources: What to read; `max_samples` bounds each.
        out: What to write.
        strategy: concat, or interleave until the first (under) or the last (over) one ends.
        probs: Chance of each source.
        seed: Of the draws.

    Raises:
        DataError: D210, probabilities that don't fit; D211, sources that can't be one; D1xx.
    """
    mix.check(len(sources), strategy, probs, said_as="--interleave-probs")
    readings = [_of_mixture(source) for source in sources]
    target = _common(readings)
    sizes = [sum(1 for _ in _values(reading, target)) for reading in readings]
    order = mix.sources(sizes, strategy, probs, seed)
    streams = [_values(reading, target) for reading in readings]
    taken = [0] * len(sources)
    with write.writer(out) as put:
        for number in order.tolist():
            value = next(streams[number], None)
            if value is None:  # interleave_over: a shorter source begins again
                streams[number] = _values(readings[number], target)
                value = next(streams[number])
            put(value)
            taken[number] += 1
    parts = [
        {"path": reading.source.path, "format": reading.format, "rows": size, "written": count}
        for reading, size, count in zip(readings, sizes, taken, strict=True)
    ]
    report = {"strategy": strategy, "to": target or readings[0].format, "sources": parts}
    return {**report, "written": len(order), **LeftOut(skip=False).report()}


def _of_mixture(source: Source) -> Reading:
    """A source of a mixture, none of which can be given a format of its own."""
    try:
        return Reading(source, LeftOut(skip=False))
    except DataError as error:
        if error.code == "D120":
            error.fix = f"convert it first: tunesmith data convert {source.path} -o NEW.jsonl"
            error.fix += " --to openai --format NAME (or --columns ROLE=NAME)"
        raise


def _common(readings: Sequence[Reading]) -> str | None:
    """The format of a mixture; None if rows can stay as they are."""
    mapped = any(reading.source.columns for reading in readings)
    if len({reading.format for reading in readings}) == 1 and not mapped:
        return None
    kinds = {reading.module.SAMPLE for reading in readings}
    if len(kinds) > 1:
        names = ", ".join(f"{one.source.path} ({one.format})" for one in readings)
        fix = (
            "convert them to one format first: tunesmith data convert FILE -o NEW.jsonl --to FORMAT"
        )
        raise DataError("D211", "the sources can't be one file", where=names, fix=fix)
    return COMMON[kinds.pop()]


def _values(reading: Reading, target: str | None) -> Iterator[Any]:
    for row, samples in reading:
        yield from _written(row, samples, target, reading.left_out)


# ---------------------------------------------------------------- duplicates


def without_duplicates(
    source: Source,
    out: Path,
    *,
    near: float | None,
    on: Literal["all", "prompt"],
    left_out: LeftOut,
) -> dict[str, Any]:
    """Writes the rows that equal no earlier one.

    Args:
        source: What to read.
        out: What to write.
        near: Similarity above which a row counts as a copy; None: only equal ones.
        on: Compare all that is said, or only what stands before the last answer.
        left_out: Is told each bad row.
    """
    text_of = similar.spoken if on == "all" else similar.asked
    index = similar.NearIndex(near) if near is not None else None
    exact: dict[bytes, str] = {}
    kept: list[str] = []
    rows = equal = 0
    removed: list[dict[str, Any]] = []
    with write.writer(out) as put:
        for row, samples in Reading(source, left_out):
            rows += 1
            where, text = row.where, _text(samples, text_of)
            same = exact.setdefault(_key(samples, text_of), where)
            close = None
            if same == where and index is not None:
                close = index.find_or_add(text)
            if same == where and close is None:
                kept.append(where)
                put(row.value)
                continue
            equal += same != where
            of, score = (kept[close[0]], round(close[1], 3)) if close else (same, 1.0)
            removed.append({"where": where, "of": of, "similarity": score})
    return {
        "rows": rows,
        "written": len(kept),
        "equal": equal,
        "near": len(removed) - equal,
        "removed": list(itertools.islice(removed, LISTED)),
        **left_out.report(),
    }
