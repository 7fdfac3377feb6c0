"""What formats share: finding one by name or by looking, columns by role, and errors of a row.

A format is a module of this folder:

    ROLES        role → names its column usually has, the most usual first
    SAMPLE       type of sample its rows become
    WHOLE_FILES  whether a plain-text file is one row
    detect(rows) whether most of these rows are in this format
    parse(row, columns, config) → a Sample, or a tuple of them where a row holds several or none
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NoReturn, Protocol

from tunesmith import registry
from tunesmith.data.formats import _tags, _unknown
from tunesmith.data.json_rows import Row
from tunesmith.data.overlooked import Watched
from tunesmith.errors import DataError
from tunesmith.recipe.sections import DataConfig
from tunesmith.types import Sample

Columns = Mapping[str, str]
"""Column names by role, as the user mapped them; an empty name says there is no such column."""


class Format(Protocol):
    ROLES: Mapping[str, tuple[str, ...]]
    SAMPLE: type
    WHOLE_FILES: bool

    def detect(self, rows: Sequence[Row]) -> bool: ...
    def parse(
        self, row: Row, columns: Columns, config: DataConfig
    ) -> Sample | tuple[Sample, ...]: ...


@cache
def load(name: str) -> Format:
    """The format called `name`.

    Raises:
        ConfigError: C110, there is none.
    """
    return registry.load("formats", name)


def samples(format: Format, row: Row, columns: Columns, config: DataConfig) -> tuple[Sample, ...]:
    """What a row holds: usually one sample; several (a tree of messages), or none.

    Raises:
        DataError: D121 to D124, the row is bad.
    """
    made = format.parse(row, columns, config)
    return made if isinstance(made, tuple) else (made,)


def detect(
    rows: Sequence[Row], columns: Columns | None = None, accepts: Sequence[type] = ()
) -> str:
    """The name of the format that most of these first rows are in.

    Args:
        rows: The first rows of a source, at least one.
        columns: The user's column names by role, if any.
        accepts: Sample types the stage trains on, the most fitting first: they decide where rows
            can be read in several ways (a tree of messages as conversations or as pairs).

    Raises:
        DataError: D120, none fits, or several do.
    """
    if columns:
        rows = [renamed(row, columns) for row in rows]
    fitting = [name for name in registry.names("formats") if load(name).detect(rows)]
    for kind in accepts if len(fitting) > 1 else ():
        if of_kind := [name for name in fitting if issubclass(load(name).SAMPLE, kind)]:
            fitting = of_kind
            break
    if len(fitting) == 1:
        return fitting[0]
    if not fitting and (mistyped := _mistyped(rows)) is not None:
        raise mistyped
    first = rows[0]
    found = f"columns found: {', '.join(first.value)}" if isinstance(first.value, dict) else ""
    if fitting:
        fix = f"say which: --format NAME (format: in a recipe), one of {', '.join(fitting)}"
        what = f"the rows fit several formats ({found})"
    else:
        fix = _unknown.fix(first.value, _usual_names())
        what = f"no format fits these rows ({found or 'plain text'})"
    raise DataError("D120", what, where=first.where, fix=fix)


JUDGED = ("openai", "sharegpt", "alpaca", "preference", "feedback", "text")
"""Formats that a row is compared with when no format fits: of these the columns say which is meant.
A tree or HC3 shares its columns with others, so its complaints would mislead."""
WRONG = ("D122", "D123")
"""What `parse` says of a column that is there and can't be used."""


def _mistyped(rows: Sequence[Row]) -> DataError | None:
    """D120 that says what is wrong in the columns, where a format's columns are in each of these
    rows, and none of them can be used; None where columns are missing."""
    for name in JUDGED:
        faults = [_fault(load(name), row) for row in rows]
        if any(fault is None or fault.code not in WRONG for fault in faults):
            continue
        first = next(fault for fault in faults if fault is not None)
        which = f"each of the first {len(rows)} rows" if len(rows) > 1 else "the row"
        what = f"the columns are those of {name}, but {which} holds something else there"
        fix = _unknown.turns(rows[0].value) or f"write what {name} holds there (see docs/data.md)"
        return DataError("D120", f"{what}: {first.what}", where=first.where, fix=fix)
    return None


def _fault(format: Format, row: Row) -> DataError | None:
    """Why a row can't be parsed; None if it can, or is plain text."""
    if not isinstance(row.value, dict):
        return None
    try:
        format.parse(row, {}, DataConfig())
    except DataError as error:
        return error
    return None


@cache
def _usual_names() -> frozenset[str]:
    """The names that columns have in one format or another."""
    every = (load(name).ROLES.items() for name in registry.names("formats"))
    return frozenset(word for roles in every for role, words in roles for word in (role, *words))


def renamed(row: Row, columns: Columns) -> Row:
    """The row with the user's columns under the names of their roles, and turns with the keys and
    speakers the user named under the usual ones."""
    if isinstance(row.value, str):
        return row
    value = _tags.standard(dict(row.value), columns)  # a copy: to copy is not to read
    mapped = {role: column for role, column in columns.items() if role not in _tags.NAMES}
    back = {column: role for role, column in mapped.items() if column}
    kept = {name: v for name, v in value.items() if name in back or name not in mapped}
    made = {back.get(name, name): v for name, v in kept.items()}
    if isinstance(row.value, Watched):
        made = row.value.renamed(made, {role: column for column, role in back.items()})
    return row._replace(value=made)


def most(rows: Sequence[Row], fits: Callable[[dict[str, Any]], bool]) -> bool:
    """Whether more than half of the rows are objects that fit: one bad row must not hide what
    the others are."""
    good = sum(isinstance(row.value, dict) and fits(row.value) for row in rows)
    return 2 * good > len(rows)


def check_columns(name: str, columns: Columns, where: str) -> None:
    """Refuses roles that a format doesn't have.

    Raises:
        DataError: D125, an unknown role.
    """
    roles = load(name).ROLES
    for role in columns:
        if role not in roles:
            hint = registry.did_you_mean(role, tuple(roles))
            fix = f"{hint}  roles of {name}: {', '.join(roles)}".strip()
            raise DataError("D125", f"the format {name} has no role `{role}`", where=where, fix=fix)


def column(
    roles: Mapping[str, tuple[str, ...]],
    value: Mapping[str, Any],
    role: str,
    columns: Columns | None = None,
) -> str | None:
    """The name under which a role's column stands in this row; None if it is not there.

    What the user mapped to one role is no other role's column, whatever its name.
    """
    columns = columns or {}
    if role in columns:
        return columns[role] if columns[role] in value else None
    taken = set(columns.values())
    for name in (role, *roles[role]):
        if name in value and name not in taken:
            return name
    return None


def bad(row: Row, code: str, what: str, fix: str = "") -> NoReturn:
    """Raises the DataError of one row."""
    raise DataError(code, what, where=row.where, fix=fix or "mend or remove the row")


def missing(row: Row, role: str) -> NoReturn:
    """Raises D121: the column of a role is not there."""
    found = ", ".join(row.value) if isinstance(row.value, dict) else "plain text"
    what = f"column `{role}` is missing; found: {found}"
    bad(
        row,
        "D121",
        what,
        f"add it, or map it: --columns {role}=NAME (columns: {{{role}: NAME}} in a recipe)",
    )


def text(row: Row, value: Any, name: str, *, empty: bool = False) -> str:
    """A value that must be a string with something in it.

    Raises:
        DataError: D122, another type, or blank.
    """
    if not isinstance(value, str):
        bad(row, "D122", f"`{name}` is {kind(value)}, not text")
    if not empty and not value.strip():
        bad(row, "D122", f"`{name}` is empty")
    return value


def optional_text(row: Row, value: Any, name: str) -> str:
    """A value that may be absent, null or empty."""
    return "" if value is None else text(row, value, name, empty=True)


def kind(value: Any) -> str:
    """The JSON word for a value's type."""
    names = {type(None): "null", bool: "true or false", str: "text", list: "a list"}
    return names.get(type(value), "an object" if isinstance(value, dict) else "a number")


def row_object(row: Row) -> dict[str, Any]:
    """The row as an object.

    Raises:
        DataError: D122, it is plain text.
    """
    if isinstance(row.value, str):
        bad(row, "D122", "a line of plain text, where this format has columns")
    return row.value
