"""Items of sources that are never stored whole: read, encoded and shuffled as training goes on.

An epoch is a pure function of the sources and (seed, epoch): sources are mixed as `data.mix` says,
then go through a buffer in which each item that comes in takes the place of a drawn one. The order
is that of `mix.buffered`, which a token store has with the same `buffer_size`. Memory holds the
buffer and a batch of rows, however large the sources are.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import numpy as np

from tunesmith.data import fill, hub, read, report as reports, row_items
from tunesmith.data.formats import base as formats
from tunesmith.data.json_rows import OnBad, Row, where
from tunesmith.data.mix import Strategy
from tunesmith.data.order import permutation, uniform
from tunesmith.data.row_items import StageEncode
from tunesmith.errors import DataError
from tunesmith.recipe.sections import DataConfig, Source
from tunesmith.types import Example

BATCH_ROWS = 128
"""Rows encoded at once."""
BATCH_CHARACTERS = 1_000_000
DRAWN = 4096
"""Draws made at once."""
TOLD = 10
"""Rows left out that are told one by one; then at 20, 40, 80 …"""
Say = Callable[[str, str], None]
T = TypeVar("T")


class Item(NamedTuple):
    """What a token store would hold for a row, and where the row is."""

    examples: tuple[Example, ...]
    where: str

    @property
    def length(self) -> int:
        return sum(len(example.ids_T) for example in self.examples)


@dataclass
class SourceStream:
    """One source, read and encoded from its beginning each time it is gone through."""

    source: Source
    format: str
    config: DataConfig
    make_encoder: Callable[[], StageEncode]
    say: Say
    _encode: StageEncode | None = None
    _left_out: dict[str, reports.Problem] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Item]:
        """Its items.

        Raises:
            DataError: a row that can't be used, as `on_bad_row` and `on_overlength` say.
        """
        for _, items in self.batches():
            yield from items

    def batches(self) -> Iterator[tuple[row_items.RowItems, list[Item]]]:
        """What became of each batch of rows."""
        self._encode = self._encode or self.make_encoder()
        files: dict[str, int] = {}
        rows = self._rows()
        numbered = (row._replace(file=str(files.setdefault(row.file, len(files)))) for row in rows)
        for batch in row_items.batches(numbered, BATCH_ROWS, BATCH_CHARACTERS):
            made = row_items.encode_rows(batch, self.format, self.source, self.config, self._encode)
            names = list(files)
            for problem in made.problems:
                self._leave_out(problem, where(names[problem.file], problem.place))
            places = [where(names[item.file], item.line) for item in made.items]
            yield made, [Item(i.examples, at) for i, at in zip(made.items, places, strict=True)]

    def _rows(self) -> Iterator[Row]:
        whole = formats.load(self.format).WHOLE_FILES
        for row in rows(self.source, self.config, whole=whole, on_bad=self._unreadable):
            yield fill.filled(row, self.source.fill or {})

    def _unreadable(self, error: DataError) -> None:
        self._leave_out(reports.Problem(0, 0, error.code, error.what), error.where)

    def _leave_out(self, problem: reports.Problem, where: str) -> None:
        """Stops, or counts and tells a row that is left out; each row once a run."""
        stops = problem.policy == "error"
        if stops or (problem.policy == "row" and self.config.on_bad_row == "error"):
            fix = "mend the row, or data.on_bad_row=skip to go on without such rows"
            if stops:
                fix = "raise data.max_length, or data.on_overlength=truncate (or skip)"
            code = "D207" if stops else problem.code
            raise DataError(code, problem.reason, where=where, fix=fix)
        if where in self._left_out or len(self._left_out) == reports.LISTED:
            return  # told already, or too many to keep
        self._left_out[where] = problem
        count = len(self._left_out)
        if count == reports.LISTED:
            self.say("data", f"{self.source.path}: {count:,} rows left out; no more are told")
        elif count <= TOLD or (count % TOLD == 0 and (count // TOLD).bit_count() == 1):
            self.say("data", f"left out {where}: {problem.reason} ({count:,} so far)")


def rows(
    source: Source, config: DataConfig, *, whole: bool = False, on_bad: OnBad | None = None
) -> Iterator[Row]:
    """Rows of a file, folder or set of the hub, one after the other; nothing is copied.

    Raises:
        DataError: D1xx.
    """
    if source.path.startswith(hub.PREFIX):
        return hub.streamed(source, config.cache_dir)
    most = source.max_samples
    return read.rows(source.path, max_samples=most, whole=whole, on_bad=on_bad, gather=False)


# ---------------------------------------------------------------- an epoch


@dataclass(frozen=True)
class Mixed:
    """Several sources as one sequence of items."""

    sources: Sequence[Iterable[Item]]
    strategy: Strategy
    probs: Sequence[float] | None
    seed: int

    def __iter__(self) -> Iterator[Item]:
        """One epoch in the order of the rows: that of `mix.sources`, without knowing sizes."""
        if self.strategy == "concat":
            return itertools.chain.from_iterable(self.sources)
        return self._in_turn() if self.probs is None else self._drawn(self.probs)

    def _in_turn(self) -> Iterator[Item]:
        parts = [_Endless(one) for one in self.sources]
        under = self.strategy == "interleave_under"
        while True:
            if under and any(part.ended for part in parts):
                return
            yield from [part.take() for part in parts]
            if not under and all(part.passes or part.ended for part in parts):
                return

    def _drawn(self, probs: Sequence[float]) -> Iterator[Item]:
        parts = [_Endless(one) for one in self.sources]
        cut = np.cumsum(np.asarray(probs, np.float64) / np.sum(probs))[:-1]
        enough = any if self.strategy == "interleave_under" else all
        for number in itertools.count():
            draws = uniform(DRAWN, self.seed, number, "mix")
            for chosen in np.searchsorted(cut, draws, side="right").tolist():
                yield parts[chosen].take()
                if enough(part.passes or part.ended for part in parts):
                    return


class _Endless:
    """A source that begins again when it is asked for more than it has."""

    def __init__(self, source: Iterable[Item]):
        self._source = source
        self._items = iter(source)
        self._next = next(self._items, None)
        self.passes = 0
        """How often it has begun again."""
        if self._next is None:
            raise DataError("D210", "a source without rows can't be mixed", where="data.train")

    @property
    def ended(self) -> bool:
        """Whether the next item is one of a new pass."""
        return self._next is None

    def take(self) -> Item:
        if self._next is None:
            self.passes += 1
            self._items = iter(self._source)
            self._next = next(self._items)
        taken, self._next = self._next, next(self._items, None)
        return taken


def shuffled(items: Iterable[T], size: int, seed: int, epoch: int) -> Iterator[T]:
    """The order of `mix.buffered`, for a number of items that is known only at their end."""
    incoming = iter(items)
    buffer = list(itertools.islice(incoming, size))
    purpose = "rows"  # no more items than the buffer takes: a full shuffle
    slots: list[int] = []
    for number, item in enumerate(incoming):
        purpose = "buffer rest"
        if number % DRAWN == 0:
            draws = uniform(DRAWN, seed, epoch, "buffer", first=number)
            slots = (draws * size).astype(np.int64).tolist()
        slot = slots[number % DRAWN]
        yield buffer[slot]
        buffer[slot] = item
    for place in permutation(len(buffer), seed, epoch, purpose).tolist():
        yield buffer[place]
