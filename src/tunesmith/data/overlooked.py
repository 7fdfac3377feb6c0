"""What a row says and no training sees: columns that its format doesn't read, keys of messages,
last turns without an answer. It is counted, with the first place of each, and said."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tunesmith.data.json_rows import Row
from tunesmith.types import Conversation, Sample

MOST = 100
"""Names that are told apart in a source; rows whose keys are data have endlessly many."""
OTHERS = "other columns"
UNANSWERED = "a last turn without an answer"
EMPTY: tuple[Any, ...] = (None, "", [], {})
"""What a column may hold and say nothing."""
TURN = ("role", "from")
"""What an object in a list has if it is a turn of a conversation."""


class Overlooked(NamedTuple):
    """One kind of thing that is not trained."""

    what: str
    count: int
    file: Any
    """Number of the file within its source; a name in reports."""
    place: int
    """Line, and number of the row: `Row.place`."""


class Watched(dict[str, Any]):
    """An object of a row that knows which of its columns were read."""

    def __init__(self, value: Mapping[str, Any]):
        super().__init__(value)
        self.seen: set[str] = set()
        self._unread: set[str] = set()
        self._names: Mapping[str, str] = {}

    def renamed(self, value: Mapping[str, Any], names: Mapping[str, str]) -> Watched:
        """The same columns under other names (new → old), that mark these as read."""
        made = Watched(value)
        made.seen, made._unread, made._names = self.seen, self._unread, names
        return made

    def __getitem__(self, name: str) -> Any:
        self.seen.add(self._names.get(name, name))
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.seen.add(self._names.get(name, name))
        return super().get(name, default)

    def items(self) -> Any:
        self.seen.update(self.keys())  # who goes through all of them uses all of them
        return super().items()

    def read_within(self, name: str, keys: Sequence[str]) -> None:
        """Marks a column that holds an object as read, but for its other keys."""
        name = self._names.get(name, name)
        self.seen.add(name)
        held = super().get(name)
        if isinstance(held, dict):
            others = {key for key in held.keys() - set(keys) if held[key] not in EMPTY}
            self._unread |= {f"{name}.{key}" for key in others}

    def unseen(self) -> list[str]:
        """Columns that hold something and were not read."""
        return [
            name
            for name in self.keys() - self.seen
            if super(Watched, self).__getitem__(name) not in EMPTY
        ] + sorted(self._unread)


def watched(row: Row) -> Row:
    """The row, its object and its turns watched; plain text as it is."""
    if not isinstance(row.value, dict):
        return row
    value = Watched(row.value)
    for name, turns in row.value.items():
        if isinstance(turns, list) and turns and _is_turn(turns[0]):
            dict.__setitem__(value, name, [Watched(t) if _is_turn(t) else t for t in turns])
    return row._replace(value=value)


def shape(row: Row) -> tuple[str, ...] | None:
    """The columns of a row whose values are no lists or objects; None for other rows."""
    if not isinstance(row.value, dict):
        return None
    if any(isinstance(value, list | dict) for value in row.value.values()):
        return None
    return tuple(row.value)


def is_read_whole(row: Row) -> bool:
    """Whether every column of a watched row was read."""
    return isinstance(row.value, Watched) and not row.value.keys() - row.value.seen


def _is_turn(value: Any) -> bool:
    return isinstance(value, dict) and any(key in value for key in TURN)


def found(row: Row, samples: Sequence[Sample]) -> Iterator[str]:
    """What of a watched row that was parsed is not in its samples; each thing once a row."""
    if isinstance(row.value, Watched):
        yield from (f"`{name}`" for name in row.value.unseen())
        names: dict[str, None] = {}
        for column in row.value.seen & row.value.keys():
            turns = dict.__getitem__(row.value, column)
            if isinstance(turns, list) and turns and isinstance(turns[0], Watched):
                unseen = (turn.unseen() for turn in turns if isinstance(turn, Watched))
                names |= {f"`{column}[].{name}`": None for part in unseen for name in part}
        yield from names
    if any(_unanswered(sample) for sample in samples):
        yield UNANSWERED


def _unanswered(sample: Sample) -> bool:
    """Whether a conversation goes on after its last answer. One without any answer is bad, and
    told as such."""
    if not isinstance(sample, Conversation) or not sample.messages:
        return False
    roles = [message.role for message in sample.messages]
    return roles[-1] != "assistant" and "assistant" in roles


class Counts:
    """Sums of what is overlooked, in the order of rows."""

    def __init__(self) -> None:
        self._found: dict[str, Overlooked] = {}

    def add(self, row: Row, samples: Sequence[Sample]) -> None:
        """Counts a row whose `file` is the number of its file."""
        for what in found(row, samples):
            self.put(Overlooked(what, 1, int(row.file), row.place))

    def put(self, one: Overlooked) -> None:
        what = one.what
        if what not in self._found and what != UNANSWERED and len(self._found) >= MOST:
            what = OTHERS
        before = self._found.get(what)
        first = min(before[2:], one[2:]) if before else one[2:]
        count = one.count + (before.count if before else 0)
        self._found[what] = Overlooked(what, count, *first)

    def all(self) -> list[Overlooked]:
        """The most frequent first."""
        return sorted(self._found.values(), key=lambda one: (-one.count, one.what))


def joined(parts: Iterable[Iterable[Sequence[Any]]]) -> list[Overlooked]:
    """What several shards or sources overlook, summed."""
    counts = Counts()
    for part in parts:
        for one in part:
            counts.put(Overlooked(*one))
    return counts.all()
