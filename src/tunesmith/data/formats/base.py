"""What formats share: finding one by name or by looking, columns by role, and errors of a row.

A format is a module of this folder:

    ROLES        role → names its column usually has, the most usual first
    SAMPLE       type of sample its rows become
    WHOLE_FILES  whether a plain-text file is one row
    detect(rows) whether most of these rows are in this format
    parse(row, columns, config) → Sample
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NoReturn, Protocol

from tunesmith import registry
from tunesmith.data.json_rows import Row
from tunesmith.errors import DataError
from tunesmith.recipe.sections import DataConfig
from tunesmith.types import Sample

Columns = Mapping[str, str]
"""Column names by role, as the user mapped them."""


class Format(Protocol):
    ROLES: Mapping[str, tuple[str, ...]]
    SAMPLE: type
    WHOLE_FILES: bool

    def detect(self, rows: Sequence[Row]) -> bool: ...
    def parse(self, row: Row, columns: Columns, config: DataConfig) -> Sample: ...


@cache
def load(name: str) -> Format:
    """The format called `name`.

    Raises:
        ConfigError: C110, there is none.
    """
    return registry.load("formats", name)


def detect(rows: Sequence[Row], columns: Columns | None = None) -> str:
    """The name of the format that most of these first rows are in.

    Args:
        rows: The first rows of a source, at least one.
        columns: The user's column names by role, if any.

    Raises:
        DataError: D120, none fits, or several do.
    """
    if columns:
        rows = [renamed(row, columns) for row in rows]
    fitting = [name for name in registry.names("formats") if load(name).detect(rows)]
    if len(fitting) == 1:
        return fitting[0]
    first = rows[0]
    found = f"columns found: {', '.join(first.value)}" if isinstance(first.value, dict) else ""
    if fitting:
        fix = f"set format: to one of {', '.join(fitting)}"
        what = f"the rows fit several formats ({found})"
    else:
        fix = "map the columns, e.g. columns: {prompt: q, completion: a}, or set format:"
        what = f"no format fits these rows ({found or 'plain text'})"
    raise DataError("D120", what, where=first.where, fix=fix)


def renamed(row: Row, columns: Columns) -> Row:
    """The row with the user's columns under the names of their roles."""
    if isinstance(row.value, str):
        return row
    back = {column: role for role, column in columns.items()}
    kept = {name: v for name, v in row.value.items() if name in back or name not in columns}
    return row._replace(value={back.get(name, name): v for name, v in kept.items()})


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


def column(roles: Mapping[str, tuple[str, ...]], value: Mapping[str, Any], role: str) -> str | None:
    """The name under which a role's column stands in this row; None if it is not there."""
    for name in (role, *roles[role]):
        if name in value:
            return name
    return None


def bad(row: Row, code: str, what: str, fix: str = "") -> NoReturn:
    """Raises the DataError of one row."""
    raise DataError(code, what, where=row.where, fix=fix or "mend or remove the row")


def missing(row: Row, role: str) -> NoReturn:
    """Raises D121: the column of a role is not there."""
    found = ", ".join(row.value) if isinstance(row.value, dict) else "plain text"
    what = f"column `{role}` is missing; found: {found}"
    bad(row, "D121", what, f"add it, or map it: columns: {{{role}: NAME}}")


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
